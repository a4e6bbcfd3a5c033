"""A worker without walls is said wherever somebody looks: health, doctor, status, the model's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steersman.cli import main
from steersman.client import Steersman
from steersman.ports import RunningReplica
from steersman.server import answers


def replica(sandbox: str | None, *, model: str = "delay", slot: int = 0) -> RunningReplica:
    place = {"workspace": "default", "environment": "production", "model": model, "digest": "sha256:00"}
    id_ = f"default/production/{model}/{slot}"
    return RunningReplica(id=id_, **place, address="127.0.0.1:1", ready=True, pid=1, sandbox=sandbox)


def test_workers_are_counted_by_the_wall_they_run_behind() -> None:
    workers = [replica("landlock/4"), replica("none", slot=1), replica("none", model="risk"), replica(None, slot=2)]
    assert answers.sandbox(workers) == {"landlock/4": 1, "none": 2}


def test_a_model_says_so_when_a_worker_of_its_own_has_none() -> None:
    workers = [replica("landlock/4"), replica("none", slot=1)]
    (note,) = answers.unwalled(workers, "default", "delay")
    assert note.startswith("1 of its workers run without file walls (sandbox: none)")
    assert answers.unwalled(workers, "default", "risk") == []
    assert answers.unwalled([replica("landlock/4")], "default", "delay") == []


@pytest.mark.parametrize(
    ("sandbox", "said"),
    [
        ({"landlock/4": 2}, "ok       workers' walls: 2 workers see their own files only (landlock/4)"),
        (
            {"landlock/4": 1, "none": 2},
            "warning  workers' walls: 2 of 3 workers run without file walls (sandbox: none)",
        ),
    ],
)
def test_the_doctor_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, sandbox: dict[str, int], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Steersman, "health", lambda _self: {"sandbox": sandbox})
    monkeypatch.setattr(Steersman, "models", lambda _self: [])
    main(["doctor"])
    assert said in capsys.readouterr().out
