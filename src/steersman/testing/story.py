"""A whole installation in memory, driven by hand: stories move its clock and read what the ledger says afterwards."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from steersman.dataplane.artifacts import ArtifactStore
from steersman.domain.incident import Incident
from steersman.domain.release import Release
from steersman.domain.traffic import Challenger
from steersman.ledger.entry import parse_entry
from steersman.loop.clock import ReplayClock
from steersman.loop.commands import Commands
from steersman.loop.control import Control
from steersman.loop.executor import Reached
from steersman.loop.world import Documents, World
from steersman.store.database import Store
from steersman.testing.fakes import (
    EPOCH,
    FakeDatasets,
    FakeNotifier,
    FakeRegistry,
    FakeRouter,
    FakeScorer,
    FakeTarget,
    FakeTraffic,
    FakeTrainer,
)


def model_document(**spec: Any) -> dict[str, Any]:
    """A Model document called `delay` with the sections given; what is left out has its default."""
    return {
        "apiVersion": "steersman/v1",
        "kind": "Model",
        "metadata": {"name": "delay", "owner": "ops@example.com"},
        "spec": {
            "versions": {"registry": "fake", "name": "delay"},
            "groundTruth": {"column": "late", "horizon": "1d"},
            **spec,
        },
    }


DATASET = {
    "apiVersion": "steersman/v1",
    "kind": "Dataset",
    "metadata": {"name": "flights"},
    "spec": {"uri": "flights.parquet", "timeColumn": "at", "labelColumn": "late"},
}


def canary(*, onInconclusive: str = "promoteWithinMargin", **policy: Any) -> dict[str, Any]:  # noqa: N803 - the document's word
    """`environments` with one, production: shadow by day, 10 % for a day, then all, then two weeks of bake.

    `policy` adds to it or replaces parts of it, under the names a document has.
    """
    analysis = {"metrics": ["roc_auc"], "margin": 0.02, "critical": True, "maxDuration": "14d"}
    steps = [
        {"mirror": {"percent": 100}},
        {"analysis": {**analysis, "onInconclusive": onInconclusive}},
        {"setWeight": 10},
        {"pause": {"duration": "1d"}},
        {"setWeight": 100},
        {"promote": {}},
        {"bake": {"duration": "14d", "metrics": ["roc_auc"]}},
    ]
    guardrails = [{"name": "error-rate", "limit": "<= 0.1%", "critical": True}]
    return {"production": {"strategy": {"canary": {"steps": steps}}, "guardrails": guardrails, **policy}}


LOOP = {
    "train": {"source": {"directory": "."}, "command": ["python", "train.py"], "data": {"dataset": "flights"}},
    "holdout": {"dataset": "flights", "last": "14d"},
    "gates": [{"metric": "roc_auc", "on": "holdout", "vs": "production", "maxDrop": 0.01}],
    "monitors": [
        {"name": "freshness", "kind": "challenger", "metric": "roc_auc", "margin": 0.02, "refresh": "14d"},
        {"name": "quality", "kind": "performance", "metric": "log_loss"},
    ],
    "retrain": {"mode": "auto", "on": ["freshness", "quality"], "cooldown": "14d"},
}
"""The sections of a model that looks after itself: how it is trained, judged, watched, and when it is trained again."""

LINE_MAX = 110
"""Characters of a line of `Story.why`: enough for the verdict and its numbers, and it fits on a page of code."""


class TickingClock(ReplayClock):
    """Starts where a story starts and then goes with the wall: for a loop that runs in its own threads."""

    replay = False

    def __init__(self, store: Store, *, start: datetime) -> None:
        super().__init__(store, start=start)
        self._started = time.monotonic()

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=time.monotonic() - self._started)


@dataclass
class Story:
    """Fakes for the world, real loops, a real store in a folder. `restart` is what a crash and a start do."""

    folder: Path
    store: Store
    registry: FakeRegistry
    target: FakeTarget
    router: FakeRouter
    traffic: FakeTraffic
    trainer: FakeTrainer
    datasets: FakeDatasets
    scorer: FakeScorer
    notifier: FakeNotifier
    clock: ReplayClock
    control: Control
    commands: Commands
    world: World
    world_documents: Documents

    @classmethod
    def begin(cls, folder: Path, *, reached: Reached = lambda _point: None, ticking: bool = False) -> "Story":
        """`ticking`: event time goes by itself, for `running`; else it stands still until it is moved."""
        router = FakeRouter()
        traffic = FakeTraffic(router=router)
        target = FakeTarget()
        registry = FakeRegistry()
        return _assemble(
            folder,
            registry=registry,
            target=target,
            router=router,
            traffic=traffic,
            trainer=FakeTrainer(registry),
            notifier=FakeNotifier(),
            reached=reached,
            clock=TickingClock if ticking else ReplayClock,
        )

    def restart(self, *, reached: Reached = lambda _point: None) -> "Story":
        """A new control server over the same state; the outside world goes on as it was."""
        self.store.close()
        return _assemble(
            self.folder,
            registry=self.registry,
            target=self.target,
            router=self.router,
            traffic=self.traffic,
            trainer=self.trainer,
            notifier=self.notifier,
            reached=reached,
            clock=type(self.clock),
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The loop as in a living installation, in threads beside the caller."""
        loop = threading.Thread(target=self.control.run, daemon=True)
        self.store.on_commit(self.control.wake)
        loop.start()
        try:
            yield
        finally:
            self.control.stop()
            loop.join(10)

    def until(self, holds: Callable[[], bool], what: str, *, seconds: float = 30.0) -> None:
        """Wait, with the loop running, until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n" + "\n".join(self.why()[-20:]))
            time.sleep(0.01)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        self.commands.apply(list(documents), actor="ann")

    def release(self, number: int, *, because: str = "new version", actor: str = "ann") -> Release:
        """Register version `number` (adding it to the registry if needed), open its release and settle."""
        if number not in self.registry.content:
            self.registry.add(number)
        self.commands.register("default", "delay", number, actor=actor)
        release = self.commands.release("default", "delay", number, "production", actor=actor, because=because)
        self.control.settle()
        return self.reread(release)

    def reread(self, release: Release) -> Release:
        with self.store.read() as tx:
            found = tx.release(release.id)
        assert found is not None
        return found

    def set_challenger(self, number: int) -> None:
        """Let a registered version be scored beside production, as a training for it would."""
        challenger = Challenger(
            workspace="default",
            model="delay",
            environment="production",
            version=number,
            digest=self.digest(number),
            since=self.clock.now(),
        )
        with self.store.write() as tx:
            tx.put_challenger(challenger)

    def days(self, count: int) -> None:
        """Let event time pass, a day at a time, as a replay does."""
        for _ in range(count):
            self.clock.move(self.clock.now() + timedelta(days=1))
            self.control.settle()

    @property
    def releases(self) -> list[Release]:
        """Every release so far, oldest first."""
        with self.store.read() as tx:
            return tx.releases()

    @property
    def incidents(self) -> list[Incident]:
        """Every incident so far, oldest first."""
        with self.store.read() as tx:
            return tx.incidents()

    def digest(self, number: int) -> str:
        with self.store.read() as tx:
            version = tx.version("default", "delay", number)
        assert version is not None
        return version.digest

    @property
    def chapter(self) -> int:
        """Where the ledger stands; `told(since=...)` goes on from there."""
        with self.store.read() as tx:
            return tx.ledger.size()

    def why(self, *, since: int = 0) -> list[str]:
        """The ledger as lines with the beginnings of their reasons: day, action, reason."""
        with self.store.read() as tx:
            entries = [parse_entry(row.body) for row in tx.ledger.rows(since)]
        lines = [f"{e.at:%m-%d} {e.action}: {e.because}" for e in entries]
        return [line if len(line) <= LINE_MAX else f"{line[: LINE_MAX - 1]}…" for line in lines]

    def told(self, *, since: int = 0) -> list[str]:
        """The ledger as lines: day, action, object."""
        with self.store.read() as tx:
            entries = [parse_entry(row.body) for row in tx.ledger.rows(since)]
        return [f"{e.at:%m-%d} {e.action} {e.object.name}" for e in entries]


def _assemble(
    folder: Path,
    *,
    registry: FakeRegistry,
    target: FakeTarget,
    router: FakeRouter,
    traffic: FakeTraffic,
    trainer: FakeTrainer,
    notifier: FakeNotifier,
    reached: Reached,
    clock: type[ReplayClock],
) -> Story:
    store = Store.at(folder, wall=_wall, durable=False)  # what dies in a story is the process, never the machine
    hand = clock(store, start=EPOCH + timedelta(days=59))
    datasets = FakeDatasets(traffic)
    scorer = FakeScorer(traffic, target)
    world = World(
        store=store,
        clock=hand,
        registries={"fake": registry},
        target=target,
        trainer=trainer,
        datasets=datasets,
        scorer=scorer,
        router=router,
        log=traffic,
        artifacts=ArtifactStore(folder / "artifacts"),
        notifier=notifier,
        jobs=folder / "jobs",
        document_root=folder,
    )
    documents = Documents()
    control = Control(world, documents, owner="story", reached=reached)
    commands = Commands(world, documents, control.reconciler)
    return Story(
        folder=folder,
        store=store,
        registry=registry,
        target=target,
        router=router,
        traffic=traffic,
        trainer=trainer,
        datasets=datasets,
        scorer=scorer,
        notifier=notifier,
        clock=hand,
        control=control,
        commands=commands,
        world=world,
        world_documents=documents,
    )


def _wall() -> datetime:
    return EPOCH


__all__ = ("DATASET", "LOOP", "Story", "canary", "model_document")
