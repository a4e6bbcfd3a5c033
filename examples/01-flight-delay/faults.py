"""What goes wrong during the year, on purpose. Each fault does its harm and later says whether it was handled.

The moments follow from the seed; the rest is up to Steersman. A fault looks only at what anybody can see: the API, the
ledger, and the process table.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from up import registry_environment, run_script

from steersman.client import Steersman
from steersman.client.credentials import Credentials

Entries = Sequence[Mapping[str, Any]]

MODEL = "ops/flight-delay"

MOVE_ALIAS = """
import sys
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
try:
    MlflowClient().set_registered_model_alias("flight-delay", "champion", "1")
except MlflowException as error:
    sys.exit(f"refused: {error}")
"""
"""What somebody in a hurry would type: the stock client, past the release."""


@dataclass(kw_only=True)
class Surroundings:
    """What a fault may use: an address, a token, a folder to write to, the state directory's process handles."""

    client: Steersman
    credentials: Credentials
    state: Path
    history: Path
    log: Path


@dataclass
class Fault(ABC):
    """`day` is the earliest day it happens; it waits for an occasion. `index` is the ledger's size when it struck."""

    name: str
    day: int
    around: Surroundings
    struck: datetime | None = None
    index: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def maybe(self, day: int, at: datetime) -> None:
        """Strike if the time has come and there is an occasion."""
        if self.struck is None and day >= self.day and self.occasion():
            self.index = ledger_size(self.around.client)
            self.strike()
            self.struck = at

    @abstractmethod
    def occasion(self) -> bool: ...

    @abstractmethod
    def strike(self) -> None: ...

    @abstractmethod
    def evidence(self, entries: Entries, releases: Entries) -> list[int]:
        """Ledger indexes that show it was handled; empty when it was not."""

    def report(self, entries: Entries, releases: Entries) -> dict[str, Any]:
        shown = self.evidence(entries[self.index :], releases) if self.struck else []
        return {
            "name": self.name,
            "struck_at": self.struck.isoformat() if self.struck else None,
            "handled": bool(shown),
            "evidence": shown,
            **self.notes,
        }


def ledger_size(client: Steersman) -> int:
    """Entries by now; the checkpoint's second line."""
    return int(client.ledger_checkpoint().splitlines()[1])


def on_its_way(client: Steersman) -> Mapping[str, Any] | None:
    """The release that is on its way in production."""
    status = client.status(MODEL)
    release = status["environments"]["production"]["release"]
    return None if release is None else client.release_status(release)


def about(entries: Entries, action: str, number: int) -> list[int]:
    """Indexes of the entries of one action about one release."""
    return [e["index"] for e in entries if e["action"] == action and e["data"].get("release") == number]


class BrokenCandidate(Fault):
    """A version that must never answer, or must be taken back: registered, released, and watched."""

    script: str
    arguments: tuple[str, ...] = ()

    def occasion(self) -> bool:
        return on_its_way(self.around.client) is None

    def strike(self) -> None:
        record = self.around.log.with_name(f"{self.name}.json")
        run_script(
            self.script,
            *self.arguments,
            environment={
                **registry_environment(self.around.credentials),
                "STEERSMAN_DATA": str(self.around.history),
                "STEERSMAN_SEED": "13",
                "STEERSMAN_MODEL_NAME": "flight-delay",
                "STEERSMAN_RUN_RECORD": str(record),
            },
            log=self.around.log,
        )
        import json

        version = json.loads(record.read_text())["version"]
        release = self.around.client.release(MODEL, version, because=f"demo: {self.name}")
        self.notes |= {"version": version, "release": release["number"]}


class ScrambledCandidate(BrokenCandidate):
    """Trained on features shuffled apart: a gate or the shadow must stop it before it answers anybody."""

    script = "train.py"
    arguments = ("--scramble",)

    def evidence(self, entries: Entries, releases: Entries) -> list[int]:
        mine = next(r for r in releases if r["number"] == self.notes["release"])
        stopped = mine["completion"] == "Aborted" and not mine["exposed"]
        return about(entries, "release.completed", mine["number"]) if stopped else []


class FaultyCandidate(BrokenCandidate):
    """Good on every holdout and copy, and it raises when it answers as a candidate: a guardrail must take it back."""

    script = "faulty.py"

    def evidence(self, entries: Entries, releases: Entries) -> list[int]:
        mine = next(r for r in releases if r["number"] == self.notes["release"])
        if mine["completion"] != "RolledBack":
            return []
        return about_guardrail(entries) + about(entries, "release.completed", mine["number"])


def about_guardrail(entries: Entries) -> list[int]:
    return [e["index"] for e in entries if e["action"] == "release.guardrail_broken"]


class ControlServerKilled(Fault):
    """kill -9 of the control server while a canary shares the traffic: serving goes on, the release resumes."""

    def occasion(self) -> bool:
        release = on_its_way(self.around.client)
        if release is None or not 0 < release["weight_pct"] < 100:
            return False
        self.notes["release"] = release["number"]
        return True

    def strike(self) -> None:
        kill(self.around.state / "run" / "control.json")

    def evidence(self, entries: Entries, releases: Entries) -> list[int]:
        started = [e["index"] for e in entries if e["action"] == "control.started"]
        completed = about(entries, "release.completed", self.notes["release"])
        return [*started[:1], *completed[:1]] if started and len(completed) <= 1 else []


class WorkerKilled(Fault):
    """kill -9 of a worker that answers requests: the other replica answers, a new one is started."""

    def occasion(self) -> bool:
        return True

    def strike(self) -> None:
        live = self.around.client.status(MODEL)["environments"]["production"]["live"]
        digest = next(v["digest"] for v in self.around.client.versions(MODEL) if v["number"] == live)
        for process in psutil.process_iter(["pid", "cmdline"]):
            command = " ".join(process.info["cmdline"] or ())
            if (
                "steersman.dataplane.worker" in command
                and str(self.around.state) in command
                and serves(command, digest)
            ):
                os.kill(process.info["pid"], signal.SIGKILL)
                self.notes |= {"version": live}
                return
        raise RuntimeError(f"no worker of version {live} was found")

    def evidence(self, entries: Entries, releases: Entries) -> list[int]:
        return [e["index"] for e in entries if e["action"] == "replica.lost"][:1]


def serves(command: str, digest: str) -> bool:
    """Whether a worker's command line belongs to a digest: its spec file says so."""
    spec = command.partition("--spec ")[2].split(" ")[0]
    return digest in Path(spec).read_text()


class AliasMoved(Fault):
    """Somebody moves `champion` with the stock MLflow client: refused, with the command to use instead, and recorded."""

    def occasion(self) -> bool:
        return True

    def strike(self) -> None:
        environment = {"PATH": os.environ.get("PATH", ""), **registry_environment(self.around.credentials)}
        done = subprocess.run(
            [sys.executable, "-c", MOVE_ALIAS], env=environment, capture_output=True, text=True, check=False
        )
        self.notes |= {"refused": done.returncode != 0, "said": done.stderr.strip()[-300:]}

    def evidence(self, entries: Entries, releases: Entries) -> list[int]:
        kept = [e["index"] for e in entries if e["action"] == "manual_change.refused"]
        return kept[:1] if self.notes.get("refused") else []


def kill(handle: Path) -> None:
    """kill -9 by the pid of a handle, and wait until it is gone."""
    import json

    pid = json.loads(handle.read_text())["pid"]
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    with contextlib.suppress(psutil.NoSuchProcess):  # reaped by the supervisor between two looks
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)


def plan(seed: int, around: Surroundings, *, days: int) -> list[Fault]:
    """The faults of a year, their earliest days drawn from the seed; apart from each other so that each is seen alone."""
    draw = random.Random(seed)

    def between(first: float, last: float) -> int:
        return int(days * draw.uniform(first, last))

    return [
        WorkerKilled("a worker is killed", between(0.05, 0.15), around),
        AliasMoved("someone moves champion", between(0.15, 0.25), around),
        ControlServerKilled("the control server is killed in a canary", between(0.05, 0.35), around),
        ScrambledCandidate("a scrambled candidate", between(0.45, 0.55), around),
        FaultyCandidate("a candidate that fails in service", between(0.6, 0.7), around),
    ]
