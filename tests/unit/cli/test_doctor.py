"""What the doctor says about a router."""

from __future__ import annotations

import socket

import pytest

from steersman.cli.commands import doctor


def test_an_open_port_behind_which_nobody_answers_is_no_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor holds the port open while a router is gone: connecting works, and says nothing."""
    monkeypatch.setattr(doctor, "ANSWER_S_MAX", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert doctor._listens("127.0.0.1", port)
        assert not doctor._serves("127.0.0.1", port)
