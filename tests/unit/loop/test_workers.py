"""Effects go on beside the loop that decides: what takes long, hangs or fails for one keeps nobody else waiting."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steersman.domain.operation import Intent, Operation, OperationKind, OperationState
from steersman.domain.release import Completion, Phase, Release
from steersman.loop import executor, workers
from steersman.loop.asking import ask
from steersman.loop.executor import Executor
from steersman.loop.workers import Lane, Workers
from steersman.testing.fakes import EPOCH
from steersman.testing.story import DATASET, LOOP, Story, model_document

STEPS = {"production": {"strategy": {"canary": {"steps": [{"setWeight": 100}, {"promote": {}}]}}}}
GATED = {
    "holdout": LOOP["holdout"],
    "gates": [{"metric": "roc_auc", "on": "holdout", "vs": "production", "maxDrop": 0.5}],
}
SERVING = {"replicas": 1, "keepWarm": 1}
ROLLBACK_S_MAX = 3.0


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    story = Story.begin(tmp_path, ticking=True)
    yield story
    story.store.close()


def declare(story: Story, workspace: str, name: str, **spec: Any) -> None:
    document = model_document(environments=STEPS, serving=SERVING, **spec)
    document["metadata"] |= {"name": name, "workspace": workspace}
    story.apply({**DATASET, "metadata": {"name": "flights", "workspace": workspace}}, document)


def opened(story: Story, workspace: str, name: str, number: int) -> Release:
    if number not in story.registry.content:
        story.registry.add(number)
    story.commands.register(workspace, name, number, actor="ann")
    return story.commands.release(workspace, name, number, "production", actor="ann", because="next")


def ended(story: Story, *releases: Release) -> Callable[[], bool]:
    return lambda: all(story.reread(release).completion is not None for release in releases)


def hanging(story: Story, number: int) -> threading.Event:
    """The gates of version `number` do not return until the event is set."""
    release, scorer = threading.Event(), story.world.scorer
    score, digest = scorer.score, story.registry.content[number]

    def slow(address: str, *args: Any) -> Any:
        replica = next(r for r in story.target.replicas if r.address == address)
        if (story.world.artifacts.path(replica.digest) / "model.txt").read_bytes() == digest:
            release.wait(60)
        return score(address, *args)

    scorer.score = slow  # type: ignore[method-assign]
    return release


def test_a_rollback_does_not_wait_for_a_gate_that_hangs(story: Story) -> None:
    declare(story, "default", "gated", **GATED)
    declare(story, "default", "delay")
    with story.running():
        first = [opened(story, "default", name, 1) for name in ("gated", "delay")]
        story.until(ended(story, *first), "both first versions are promoted")
        second = opened(story, "default", "delay", 2)
        story.until(ended(story, second), "the second version is promoted")
        story.registry.add(3)
        go_on = hanging(story, 3)
        stuck = opened(story, "default", "gated", 3)
        story.until(lambda: running(story, OperationKind.GATE), "the gate is being evaluated")

        began = time.monotonic()
        back = story.commands.rollback("default", "delay", "production", actor="bob", because="complaints")
        story.until(ended(story, back), "the rollback is over", seconds=ROLLBACK_S_MAX * 5)
        took = time.monotonic() - began

        assert story.reread(stuck).phase is Phase.PENDING
        go_on.set()
        story.until(ended(story, stuck), "the gate's release goes on where it was")
    assert took < ROLLBACK_S_MAX
    assert story.reread(stuck).completion is Completion.PROMOTED


def running(story: Story, kind: OperationKind) -> bool:
    with story.store.read() as tx:
        return any(o.kind is kind and o.state is OperationState.RUNNING for o in tx.open_operations())


def test_twenty_models_release_at_once_and_one_that_hangs_or_fails_holds_no_other(story: Story) -> None:
    story.traffic.rows = 40
    places = [(workspace, f"model-{n}") for workspace in ("east", "west") for n in range(10)]
    for workspace, name in places:
        declare(story, workspace, name, **GATED)
    with story.running():
        story.until(ended(story, *[opened(story, *place, 1) for place in places]), "all first versions", seconds=90)
        for number in (2, 3, 4):
            story.registry.add(number)
        go_on = hanging(story, 3)
        hung, broken, *others = places
        story.commands.register(*broken, 4, actor="ann")
        with story.store.read() as tx:
            bad = tx.version(*broken, 4)
        assert bad is not None
        story.target.broken.add(bad.digest)

        stuck, failing = opened(story, *hung, 3), opened(story, *broken, 4)
        good = [opened(story, *place, 2) for place in others]
        story.until(ended(story, *good), "all the others are promoted", seconds=90)
        assert {story.reread(release).completion for release in good} == {Completion.PROMOTED}
        assert story.reread(stuck).phase is Phase.PENDING
        story.until(ended(story, failing), "what does not start is given up", seconds=60)
        assert story.reread(failing).completion is Completion.ABORTED
        go_on.set()
        story.until(ended(story, stuck), "the one that hung goes on")


# --- leases and places


class Recording(Executor):
    """Holds every operation it is given until it is let go, and remembers them."""

    def __init__(self, operations: list[Operation]) -> None:
        self.operations, self.tried, self.renewed = operations, [], []  # type: ignore[var-annotated]
        self.go_on = threading.Event()

    def open(self, *, kinds: Any = ()) -> list[Operation]:
        wanted = set(kinds)
        return [operation for operation in self.operations if operation.kind in wanted]

    def attempt(self, operation: Operation) -> bool:
        self.tried.append(operation.id)
        return self.go_on.wait(30)

    def renew(self, operation: Operation) -> None:
        self.renewed.append(operation.id)


def operations(kind: OperationKind, count: int, *, model: str = "m{}") -> list[Operation]:
    at = EPOCH
    return [
        Operation(
            id=f"{kind}-{n}",
            key=f"{kind}/{n}",
            kind=kind,
            args={"workspace": "w", "model": model.format(n)},
            state=OperationState.INTENDED,
            at=at,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(("kind", "lane"), [(OperationKind.GATE, Lane.EVIDENCE), (OperationKind.STOP, Lane.CAPACITY)])
def test_a_lane_has_a_bounded_number_of_threads_and_one_model_not_all_of_them(kind: OperationKind, lane: Lane) -> None:
    many = Recording(operations(kind, 40))
    one = Recording(operations(kind, 40, model="the same"))
    for recording, places in ((many, workers.ROOM[lane]), (one, workers.ROOM_OF_A_MODEL[lane])):
        pool = Workers(recording, moved=lambda: None)
        for _ in range(3):
            pool.turn()
        assert len(recording.tried) == places
        recording.go_on.set()


def test_gates_that_fill_their_lane_do_not_keep_replicas_from_starting() -> None:
    recording = Recording([*operations(OperationKind.GATE, 20), *operations(OperationKind.REPLICAS, 1)])
    Workers(recording, moved=lambda: None).turn()
    assert "replicas-0" in recording.tried
    recording.go_on.set()


def test_what_has_waited_longest_goes_first_when_places_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(workers.ROOM, Lane.CAPACITY, 2)
    recording = Recording(operations(OperationKind.REPLICAS, 6))
    pool = Workers(recording, moved=lambda: None)
    for _ in range(3):
        recording.go_on.clear()
        pool.turn()
        recording.go_on.set()
        deadline = time.monotonic() + 10
        while pool._working and time.monotonic() < deadline:
            time.sleep(0.001)
    assert sorted(recording.tried) == [f"replicas-{n}" for n in range(6)]


def test_a_place_that_hangs_for_long_is_given_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(operations(OperationKind.GATE, 8))
    pool = Workers(recording, moved=lambda: None)
    pool.turn()
    assert len(recording.tried) == 4
    monkeypatch.setattr(workers, "HUNG_S", 0.0)
    pool.turn()
    assert len(recording.tried) == 8
    recording.go_on.set()


def test_the_lease_of_a_long_effect_is_kept_and_nobody_else_makes_it(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "LEASE_S", 0.6)
    monkeypatch.setattr(executor, "RENEWED_AFTER_S", 0.2)
    started, go_on = [], threading.Event()

    def slow(_world: Any, _documents: Any, operation: Operation) -> Any:
        started.append(operation.epoch)
        go_on.wait(30)
        return executor.Ended()

    monkeypatch.setitem(executor.EFFECTS, OperationKind.ALIAS, slow)
    with story.store.write() as tx:
        ask(tx, Intent(key="alias/x", kind=OperationKind.ALIAS, args={}), at=story.clock.now())
    mine, other = (Executor(story.world, story.world_documents, owner=name) for name in ("mine", "other"))
    pool = Workers(mine, moved=lambda: None)
    pool.turn()
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        pool.turn()
        (operation,) = other.open()
        assert not other.attempt(operation)
        time.sleep(0.05)
    go_on.set()
    story.until(lambda: not other.open(), "it ends under its first claim")
    assert started == [1]


# --- stops and routes cannot pass each other


def promoted_twice(story: Story) -> None:
    """Version 1 was replaced by 2 and 2 by 3; of what was replaced, none is kept warm."""
    document = model_document(environments=STEPS, serving={"replicas": 1, "keepWarm": 0})
    story.apply(document)
    for number in (1, 2):
        story.release(number)


def test_a_version_wanted_again_before_its_stop_began_is_not_stopped(tmp_path: Path) -> None:
    story = Story.begin(tmp_path)
    promoted_twice(story)
    story.target.ensure(story.target.asked[story.digest(1)], 1)
    story.control.reconciler.turn()
    assert [o.kind for o in story.control.executor.open()] == [OperationKind.STOP]

    story.commands.rollback("default", "delay", "production", actor="bob", because="worse")
    started = story.target.started
    for _ in range(6):
        story.control.reconciler.turn()
        for operation in story.control.executor.open(kinds=[OperationKind.ROUTE, OperationKind.STOP]):
            story.control.executor.attempt(operation)
    assert story.router.weights() == {"1": 100.0}
    assert story.target.started == started
    story.store.close()


def test_nobody_is_sent_to_a_replica_whose_stop_has_begun(tmp_path: Path) -> None:
    story = Story.begin(tmp_path)
    promoted_twice(story)
    story.target.ensure(story.target.asked[story.digest(1)], 1)
    leaving = next(r.address for r in story.target.replicas if r.digest == story.digest(1))
    story.control.reconciler.turn()
    (stop,) = story.control.executor.open()
    with story.store.write() as tx:
        tx.claim(stop, owner="another control server", now_s=time.time(), lease_s=60)

    story.commands.rollback("default", "delay", "production", actor="bob", because="worse")
    for _ in range(6):
        story.control.reconciler.turn()
        for operation in story.control.executor.open(kinds=[OperationKind.ROUTE]):
            story.control.executor.attempt(operation)
    named = {a for c in story.router.applied[-1:] for r in c.routes for v in r.variants for a in v.addresses}
    assert leaving not in named
    assert story.router.weights() == {"2": 100.0}, "what answers goes on until the other is up"
    story.store.close()
