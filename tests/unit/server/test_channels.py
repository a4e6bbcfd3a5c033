"""Channels given to `steersman up`: what is wrong is said before anything starts, and never repeats what may be a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman.domain.errors import BadRequest, Misconfigured
from steersman.server.installation import Installation, load, save
from steersman.server.supervisor import _channels, _variables_of_secrets, main
from steersman.server.wiring import outbox

ADDRESS = "https://chat.example.com/hooks/s3cret"


def test_a_channel_has_a_name_and_says_where_its_address_lies() -> None:
    assert _channels(["ops=env:OPS_WEBHOOK", "night=file:/etc/w"]) == {"ops": "env:OPS_WEBHOOK", "night": "file:/etc/w"}


@pytest.mark.parametrize("given", [[ADDRESS], ["=env:A"], ["Ops=env:A"], ["ops=env:A", "ops=env:B"]])
def test_anything_else_is_refused_without_being_repeated(given: list[str]) -> None:
    with pytest.raises(BadRequest) as refused:
        _channels(given)
    assert "s3cret" not in str(refused.value) + refused.value.next_step


def test_a_channel_nobody_can_reach_keeps_the_installation_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Misconfigured, match="the secret env:OPS_WEBHOOK is empty or not set"):
        main(state=tmp_path, notify=("ops=env:OPS_WEBHOOK",))
    with pytest.raises(BadRequest, match="a secret is given by reference"):
        main(state=tmp_path, notify=(f"ops={ADDRESS}",))
    monkeypatch.setenv("OPS_WEBHOOK", "http://chat.example.com/s3cret")
    with pytest.raises(BadRequest, match="the webhook's address is not allowed"):
        main(state=tmp_path, notify=("ops=env:OPS_WEBHOOK",))
    assert list(tmp_path.iterdir()) == []


def test_the_address_is_in_no_file_and_only_the_control_server_gets_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS_WEBHOOK", ADDRESS)
    installation = Installation(notify={"ops": "env:OPS_WEBHOOK"})
    save(tmp_path, installation)
    assert load(tmp_path) == installation
    assert b"s3cret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert _variables_of_secrets(installation) == {"OPS_WEBHOOK": ADDRESS}
    assert outbox(installation).channels == {"ops"}
