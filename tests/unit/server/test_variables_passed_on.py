"""A process of an installation sees the variables it needs, and no other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman.server.installation import Installation
from steersman.server.supervisor import Supervisor


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The `OTEL_`, `UV_`, proxy and other variables each process is given."""
    given = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
        "UV_DEFAULT_INDEX": "https://user:secret@example.com/simple",
        "https_proxy": "http://127.0.0.1:3128",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    supervisor = Supervisor(state=tmp_path, installation=Installation(), say=print)
    for name in ("router", "committer", "control"):
        supervisor._add(name, f"steersman.{name}")
    return {name: given.keys() & child.environment.keys() for name, child in supervisor.children.items()}


def test_where_traces_go_is_told_to_routers_only(environments: dict[str, set[str]]) -> None:
    assert environments["router"] == {"OTEL_EXPORTER_OTLP_HEADERS"}


def test_where_packages_come_from_is_told_to_the_control_server_only(environments: dict[str, set[str]]) -> None:
    assert environments["control"] == {"UV_DEFAULT_INDEX", "https_proxy"}
    assert environments["committer"] == set()
