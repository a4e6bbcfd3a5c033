"""Rollbacks of a whole installation under load, from every phase of a release: how long each takes, and who noticed.

with Installed(folder) as installed:
    rehearsal = Rehearsal(installed)
    rehearsal.prepare()
    with rehearsal.load():
        took = rehearsal.roll_back_from("Progressing")

Version 1 and 2 were promoted before; the version after them is brought into the phase and then taken back. Meanwhile
callers ask without a pause, and gates of another model that have just begun score a holdout of many rows.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from steersman.domain.operation import OperationKind, OperationState
from steersman.store.database import Store
from steersman.testing.installed import Installed

PHASES = ("Pending", "Progressing", "Paused", "Verifying")
"""Every phase in which a release may meet a rollback; Degraded goes back by itself, Healthy is over."""

HOLDOUT_ROWS = 200_000
"""Rows the other model's gates score, twice: seconds of a gate, longer than any rollback may take."""

MODEL, BUSY = "delay", "busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Wall seconds from the request for a rollback until the router had the route, and until it was seen in answers.

    `gate_running`: whether the gates that had just begun for the other model were still being evaluated then.
    """

    phase: str
    routed_s: float
    answered_s: float
    gate_running: bool


@dataclass
class Caller(threading.Thread):
    """Asks again and again; remembers which version answered when, and everything that was not answered."""

    installed: Installed
    number: int
    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        count = 0
        while not self.ended.wait(0.02):
            count += 1
            event = f"caller-{self.number}-{count}"
            try:
                status, answer = self.installed.infer(MODEL, {"x": [-1.0], "z": [0.0]}, event_ids=[event])
            except Exception as error:  # whatever a client meets is a request that failed
                self.failures.append(repr(error))
                continue
            if status != 200:
                self.failures.append(f"{status} {answer}")
            else:
                self.answers.append((time.monotonic(), round(float(answer["outputs"][0]["data"][0]), 3)))


class Rehearsal:
    """One installation with a model to roll back, `delay`, and one that keeps the control server busy, `busy`."""

    def __init__(self, installed: Installed, *, callers: int = 3) -> None:
        self._installed = installed
        self._callers = [Caller(installed, number) for number in range(callers)]
        self._next = 0
        self._busy = 1

    @property
    def requests(self) -> int:
        return sum(len(caller.answers) for caller in self._callers)

    @property
    def failures(self) -> list[str]:
        return [said for caller in self._callers for said in caller.failures]

    # --- what is there before

    def prepare(self) -> None:
        """Promote two versions of `delay` and one of `busy`; takes about 10 s on a quiet machine."""
        holdout = self._installed.folder / "holdout.parquet"
        _rows(HOLDOUT_ROWS).write_parquet(holdout)
        dataset = {
            "apiVersion": "steersman/v1",
            "kind": "Dataset",
            "metadata": {"name": "rows"},
            "spec": {"uri": str(holdout), "timeColumn": "at", "labelColumn": "late"},
        }
        self._installed.register_stump(BUSY, self._busy, low=0.1)
        self._installed.client.apply([dataset, _model(BUSY, _to_the_end(), gated=True)])
        self._promote(BUSY, self._busy)
        for _ in range(2):
            self._installed.client.apply([_model(MODEL, _to_the_end())])
            self._promote(MODEL, self._register())
        self._installed.client.apply([_model(MODEL, _with_a_stop())])

    def _register(self) -> int:
        """A version that answers its own number over 1,000 where x is negative, so that answers name their version."""
        self._next += 1
        self._installed.register_stump(MODEL, self._next, low=_says(self._next))
        return self._next

    def _promote(self, model: str, number: int) -> None:
        client = self._installed.client
        client.register(model, number)
        opened = client.release(model, number, because="before the rehearsal")
        assert self._installed.completion(opened["id"], 180.0) == "Promoted"

    # --- load

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        for caller in self._callers:
            caller.start()
        try:
            yield
        finally:
            for caller in self._callers:
                caller.ended.set()
            for caller in self._callers:
                caller.join(30)

    def _begin_gates(self) -> str:
        """Begin the gates of another release of the other model, and see that they are being evaluated.

        Those of the release before have to end first, since a model has one place for them; so each rollback meets gates
        that have just begun and not some that are about to end.
        """
        client = self._installed.client
        self._installed.wait_for(lambda: not self._gates(), "the gates of the rollback before are over", 180.0)
        self._busy += 1
        self._installed.register_stump(BUSY, self._busy, low=self._busy / 1000)
        client.register(BUSY, self._busy)
        release = str(client.release(BUSY, self._busy, because="keeps the control server busy")["id"])
        self._installed.wait_for(lambda: release in self._gates(), "the gates are being evaluated", 120.0)
        return release

    def _gates(self) -> set[str]:
        """The releases whose gates are being evaluated."""
        with contextlib.closing(Store.at(self._installed.state)) as store, store.read() as tx:
            operations = tx.open_operations()
        gates = [o for o in operations if o.kind is OperationKind.GATE and o.state is OperationState.RUNNING]
        return {str(operation.args["release"]) for operation in gates}

    # --- a rollback

    def roll_back_from(self, phase: str) -> Took:
        """Bring the next version into `phase`, roll back, and wait until the version before answers every request."""
        before = self._answering()
        client = self._installed.client
        number = self._register()
        client.register(MODEL, number)
        if phase == "Pending":
            client.apply([_model(MODEL, _with_a_stop(), freeze=[_freeze()])])
        opened = client.release(MODEL, number, because="to be taken back")
        self._reach(opened["id"], phase)
        gated = self._begin_gates()
        wanted = self._version_before(before, phase)
        began = time.monotonic()
        back = client.rollback(MODEL, because="complaints")
        self._installed.wait_for(lambda: self._answering() == wanted, f"{wanted} answers alone", 60.0)
        routed_s = time.monotonic() - began
        gate_running = gated in self._gates()
        answered_s = self._answered_alone(wanted, began)
        if phase == "Pending":
            client.apply([_model(MODEL, _with_a_stop())])
        self._installed.completion(back["id"])
        if self._answering() == 1:  # there is nothing before the first version: go forward again
            self._installed.client.apply([_model(MODEL, _to_the_end())])
            self._promote(MODEL, self._register())
            self._installed.client.apply([_model(MODEL, _with_a_stop())])
        return Took(phase=phase, routed_s=routed_s, answered_s=answered_s, gate_running=gate_running)

    def _reach(self, release: str, phase: str) -> None:
        def there() -> bool:
            return bool(self._installed.client.release_status(release)["phase"] == phase)

        def ramped() -> bool:
            return len(self._weights()) == 2

        if phase in ("Progressing", "Paused", "Verifying"):
            self._installed.wait_for(ramped, "the candidate answers its share", 120.0)
        if phase == "Paused":
            self._installed.client.pause(release, because="somebody looks")
        if phase == "Verifying":
            self._installed.client.promote(release, because="looks good", full=True)
        self._installed.wait_for(there, f"the release is {phase}", 120.0)

    def _version_before(self, before: int, phase: str) -> int:
        """What a rollback brings back: what answered before the release, or, where it never answered, the one before."""
        if phase != "Pending":
            return before
        lived = [entry["version"] for entry in self._installed.client.history(MODEL)["history"]]
        return int([version for version in lived if version < before][-1])

    def _weights(self) -> dict[int, float]:
        routed = self._installed.routed()
        route = next((r for r in routed.routes if r.model == MODEL), None) if routed else None
        return {int(variant.version): variant.weight_pct for variant in route.variants} if route else {}

    def _answering(self) -> int:
        """The one version that answers, 0 while there are two."""
        weights = self._weights()
        return next(iter(weights)) if len(weights) == 1 else 0

    def _answered_alone(self, wanted: int, began: float) -> float:
        """Seconds until the last answer of any other version, as the callers saw it."""
        time.sleep(1.0)
        others = [at for c in self._callers for at, said in list(c.answers) if at > began and said != _says(wanted)]
        return max(others, default=began) - began


def _says(number: int) -> float:
    return number / 1000


def _model(
    name: str, steps: Sequence[dict[str, Any]], *, gated: bool = False, freeze: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    production = {"concurrency": "supersede", "strategy": {"canary": {"steps": list(steps)}}, "freeze": list(freeze)}
    spec: dict[str, Any] = {
        "versions": {"registry": "directory", "name": name},
        "serving": {"replicas": 1, "idempotent": True, "keepWarm": 1},
        "environments": {"production": production},
    }
    if gated:
        spec |= {
            "groundTruth": {"column": "late", "horizon": "1h"},
            "holdout": {"dataset": "rows", "last": "300d"},
            "gates": [{"metric": "roc_auc", "on": "holdout", "vs": "production", "maxDrop": 0.5}],
        }
    metadata = {"name": name, "owner": "ops@example.com"}
    return {"apiVersion": "steersman/v1", "kind": "Model", "metadata": metadata, "spec": spec}


def _to_the_end() -> list[dict[str, Any]]:
    return [{"setWeight": 100}, {"promote": {}}]


def _with_a_stop() -> list[dict[str, Any]]:
    """A share of the requests for an hour, then everything; the bake keeps a promoted version Verifying."""
    return [
        {"setWeight": 20},
        {"pause": {"duration": "1h"}},
        {"setWeight": 100},
        {"promote": {}},
        {"bake": {"duration": "1h"}},
    ]


def _freeze() -> dict[str, Any]:
    now = datetime.now(UTC)
    starts, ends = now - timedelta(hours=1), now + timedelta(hours=1)
    return {"startsAt": starts.isoformat(), "endsAt": ends.isoformat(), "reason": "rehearsal"}


def _rows(count: int) -> pl.DataFrame:
    draw = np.random.default_rng(7)
    x = draw.normal(size=count)
    now = datetime.now(UTC).replace(tzinfo=None)
    at = [now - timedelta(days=10) + timedelta(milliseconds=n) for n in range(count)]
    late = (draw.random(count) < np.where(x > 0, 0.4, 0.2)).astype(float)
    ids = [f"row-{n}" for n in range(count)]
    return pl.DataFrame({"event_id": ids, "at": at, "x": x, "z": draw.normal(size=count), "late": late})
