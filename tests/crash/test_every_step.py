"""The control server dies at every step of a whole life, or the world fails it, and the life goes on as if nothing had.

One life is told undisturbed: a first release, a challenger, an incident, a retraining through gates, shadow, approval and
canary, a verified recovery, a rollback by hand, a changed alias, a retirement. Then it is told again, and everything in it
fails once: each effect dies before it is made, after it, and after its record; each effect's adapter refuses before it did
anything, or does it and does not say so; each entry's transaction dies before its commit and right after it; the replicas
die under every effect. The ledger must come out the same, entry by entry.

All cells of a row of the matrix are met in one life: a life costs seconds, a cell next to nothing. `make soak` tells one
life for each cell too, so that a failure has one name.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steersman.domain.incident import IncidentState
from steersman.domain.operation import OperationKind
from steersman.domain.release import Phase
from steersman.domain.spec import Step
from steersman.loop import executor
from steersman.loop.checking import checks_of
from steersman.store.database import Store
from steersman.store.transaction import Transaction
from steersman.testing.story import DATASET, LOOP, Story, canary, model_document

START = datetime(2013, 3, 1, tzinfo=UTC)
BEHIND_SINCE = START + timedelta(days=5)


class Died(BaseException):
    """The process is gone: no handler of the program sees this."""


def document() -> dict[str, object]:
    """A model whose life is quick: a challenger after five days, two days of shadow, three of bake."""
    freshness = {**LOOP["monitors"][0], "refresh": "5d", "blocksMin": 3}
    environments = canary()
    steps = environments["production"]["strategy"]["canary"]["steps"]
    steps[1]["analysis"] |= {"blocksMin": 2, "maxDuration": "4d"}
    steps[-1]["bake"]["duration"] = "3d"
    steps.insert(2, {"approval": {"count": 1}})
    loop = {**LOOP, "monitors": [freshness], "retrain": {"mode": "auto", "on": ["freshness"], "cooldown": "5d"}}
    return model_document(environments=environments, serving={"replicas": 2, "keepWarm": 1}, **loop)


def applied(story: Story) -> None:
    story.apply(DATASET, document())


def first_release(story: Story) -> None:
    if 1 not in story.registry.content:
        story.registry.add(1)
    version = story.commands.register("default", "delay", 1, actor="ann")
    story.traffic.quality = lambda digest, day: 0.4 if digest == version.digest and day >= BEHIND_SINCE else 1.2
    if not story.releases:
        story.commands.release("default", "delay", 1, "production", actor="ann", because="first version")


def checked(story: Story) -> None:
    with story.store.read() as tx:
        if checks_of(tx, "default", "delay", 1):
            return
    story.commands.check("default", "delay", 1, "production", actor="ci")


def rolled_back(story: Story) -> None:
    if not any(line.endswith("rollback.requested delay/production/2") for line in story.told()):
        story.commands.rollback("default", "delay", "production", actor="bob", because="a complaint")


def alias_moved(story: Story) -> None:
    story.registry.alias.pop("champion", None)


def retired(story: Story) -> None:
    story.commands.retire("default", "delay", 2, actor="bob", because="never needed")


def at(day: int) -> Callable[[Story], None]:
    def settled(story: Story) -> None:
        story.clock.move(START + timedelta(days=day))
        story.control.settle()
        waiting = [r for r in story.releases if r.phase is Phase.PAUSED and r.completion is None]
        for release in waiting:
            story.commands.approve(release.id, actor="eve", because="the shadow said so")
        if waiting:
            story.control.settle()

    return settled


LIFE: list[Callable[[Story], None]] = [
    applied,
    first_release,
    checked,
    *(at(day) for day in range(30)),
    rolled_back,
    at(30),
    alias_moved,
    at(31),
    retired,
    at(32),
]
"""Every step may be asked for twice: a person who got no answer looks, and asks again."""


def live_through(
    folder: Path,
    reached: Callable[[str], None] = lambda _point: None,
    *,
    world: Callable[[Story], None] | None = None,
    disturbed: AbstractContextManager[object] | None = None,
) -> tuple[Story, int]:
    """The whole life, and how often the control server died in it. `world` makes the world of it less friendly; `disturbed`
    lasts from when the installation is there to the end of the life."""
    story, deaths = Story.begin(folder, reached=reached), 0
    if world is not None:
        world(story)
    with disturbed or nullcontext():
        for step in LIFE:
            while True:
                try:
                    step(story)
                    break
                except Died:
                    deaths += 1
                    story = revived(story, reached)
    return story, deaths


def revived(story: Story, reached: Callable[[str], None]) -> Story:
    while True:
        try:
            return story.restart(reached=reached)
        except Died:
            continue


def ledger(story: Story) -> list[str]:
    """The entries without what differs from run to run: random names and the time of writing."""
    with story.store.read() as tx:
        bodies = [msgspec.json.decode(row.body) for row in tx.ledger.rows()]
    told = []
    for body in bodies:
        kept = {name: value for name, value in body.items() if name not in ("id", "recorded_at")}
        told.append(re.sub(r"\b(inc|rel|run|fnd|op)-[0-9a-f-]{20,}", r"\1", msgspec.json.encode(kept).decode()))
    return told


def assert_ended_once(story: Story) -> None:
    ended = Counter(line for line in story.told() if "release.completed" in line)
    assert len(ended) == len([r for r in story.releases if r.completion is not None])
    assert max(ended.values()) == 1
    with story.store.read() as tx:
        assert tx.open_operations() == []


@pytest.fixture(autouse=True)
def no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BACKOFF_S", (0.0,))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Counter[str], int]:
    """The ledger of the life without a death, how often each point was reached, and how many replicas were started."""
    points: Counter[str] = Counter()
    story, deaths = live_through(tmp_path_factory.mktemp("undisturbed"), reached=lambda point: points.update([point]))
    assert deaths == 0
    return ledger(story), points, story.target.started


def test_the_life_has_every_kind_of_effect_and_step_and_comes_to_a_good_end(
    undisturbed: tuple[list[str], Counter[str], int], tmp_path: Path
) -> None:
    _entries, points, _started = undisturbed
    assert {point.partition(":")[0] for point in points} == set(OperationKind)
    steps = document()["spec"]["environments"]["production"]["strategy"]["canary"]["steps"]  # type: ignore[index]
    assert {next(iter(step)) for step in steps} == {kind.__struct_config__.tag for kind in Step.__args__}
    story, _deaths = live_through(tmp_path)
    assert story.incidents[0].state is IncidentState.CLOSED
    assert story.router.weights() == {"1": 100.0}


# --- the control server, at its effects


def dying_once_each(died: Counter[str], *points: str) -> Callable[[str], None]:
    """Die every second time one of these points is reached: at each operation once, then it may go on."""

    def reached(point: str) -> None:
        if point in points:
            died.update([point])
            if died[point] % 2:
                raise Died

    return reached


ONE_CELL = [
    pytest.param([kind], when, marks=pytest.mark.soak, id=f"{kind} {when}")
    for kind in OperationKind
    for when in ("before", "after", "recorded")
]
ALL_KINDS = [pytest.param(list(OperationKind), when, id=when) for when in ("before", "after", "recorded")]


@pytest.mark.parametrize(("kinds", "when"), [*ALL_KINDS, *ONE_CELL])
def test_dying_at_an_effect_changes_nothing_that_is_told(
    kinds: list[OperationKind], when: str, undisturbed: tuple[list[str], Counter[str], int], tmp_path: Path
) -> None:
    entries, points, started = undisturbed
    died: Counter[str] = Counter()
    story, _deaths = live_through(tmp_path, dying_once_each(died, *(f"{kind}:{when}" for kind in kinds)))
    for kind in kinds:
        assert (died[f"{kind}:{when}"] + 1) // 2 >= max(points[f"{kind}:{when}"] // 2, 1), kind
    assert ledger(story) == entries
    assert story.target.started == started
    assert_ended_once(story)


# --- the control server, at its entries


@contextmanager
def dying_at_entries(monkeypatch: pytest.MonkeyPatch, died: set[int], *, committed: bool) -> Iterator[None]:
    """Every transaction that adds to the ledger dies once, before its commit or right after it; `died` says at which."""
    original = Store.write

    @contextmanager
    def write(self: Store) -> Iterator[Transaction]:
        with original(self) as tx:
            before = tx.ledger.size()
            yield tx
            dies = bool(tx.appended) and before not in died
            if dies:
                died.add(before)
                if not committed:
                    raise Died
        if dies:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", write)
        yield


@pytest.mark.parametrize("committed", [False, True], ids=["before its commit", "after its commit"])
def test_dying_at_an_entry_neither_loses_it_nor_tells_it_twice(
    *,
    committed: bool,
    undisturbed: tuple[list[str], Counter[str], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries, _points, started = undisturbed
    died: set[int] = set()
    story, deaths = live_through(tmp_path, disturbed=dying_at_entries(monkeypatch, died, committed=committed))
    assert deaths == len(died)
    assert deaths > len(entries) / 3
    assert ledger(story) == entries
    assert story.target.started == started
    assert_ended_once(story)


@contextmanager
def dying_at_commits(monkeypatch: pytest.MonkeyPatch, *, every: int, offset: int, committed: bool) -> Iterator[None]:
    """Each `every`-th transaction dies, before its commit or right after it."""
    original = Store.write
    count = offset

    @contextmanager
    def write(self: Store) -> Iterator[Transaction]:
        nonlocal count
        count += 1
        dies = count % every == 0
        with original(self) as tx:
            yield tx
            if dies and not committed:
                raise Died
        if dies:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", write)
        yield


@pytest.mark.soak
@pytest.mark.parametrize("committed", [False, True], ids=["before its commit", "after its commit"])
@pytest.mark.parametrize("offset", range(17))
def test_dying_at_a_commit_loses_no_entry_and_changes_nothing_without_one(
    *,
    offset: int,
    committed: bool,
    undisturbed: tuple[list[str], Counter[str], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries, _points, started = undisturbed
    disturbed = dying_at_commits(monkeypatch, every=17, offset=offset, committed=committed)
    story, deaths = live_through(tmp_path, disturbed=disturbed)
    assert deaths > 10
    assert ledger(story) == entries
    assert story.target.started == started
    assert_ended_once(story)


# --- the world: target, router, registry, trainer


ADAPTERS: dict[OperationKind, tuple[str, str]] = {
    OperationKind.REPLICAS: ("target", "ensure"),
    OperationKind.STOP: ("target", "stop"),
    OperationKind.ROUTE: ("router", "apply"),
    OperationKind.ALIAS: ("registry", "set_alias"),
    OperationKind.GATE: ("scorer", "score"),
    OperationKind.TRAIN: ("trainer", "ensure"),
}
"""What each kind of effect asks of the world; a check asks what starts and gates ask."""


def failing_once_each(failed: Counter[OperationKind], *, done: bool) -> Callable[[Story], None]:
    """Whatever is asked of an adapter fails when it is first asked: before it did anything, or `done` and not said."""

    def world(story: Story) -> None:
        for kind, (name, method) in ADAPTERS.items():
            adapter = story.world.scorer if name == "scorer" else getattr(story, name)
            setattr(adapter, method, unreliable(kind, getattr(adapter, method)))

    def unreliable(kind: OperationKind, call: Callable[..., Any]) -> Callable[..., Any]:
        asked_before: set[str] = set()

        def asked(*args: Any, **kwargs: Any) -> Any:
            what = repr((args, kwargs))
            first = what not in asked_before
            asked_before.add(what)
            if first:
                failed.update([kind])
            if first and not done:
                raise ConnectionError("it did not answer")
            answer = call(*args, **kwargs)
            if first:
                raise ConnectionError("its answer was lost")
            return answer

        return asked

    return world


@pytest.mark.parametrize("done", [False, True], ids=["before it did anything", "after it did, unreported"])
def test_a_world_that_fails_at_every_effect_changes_nothing_that_is_told(
    *, done: bool, undisturbed: tuple[list[str], Counter[str], int], tmp_path: Path
) -> None:
    entries, _points, started = undisturbed
    failed: Counter[OperationKind] = Counter()
    story, _deaths = live_through(tmp_path, world=failing_once_each(failed, done=done))
    assert set(failed) == set(OperationKind) - {OperationKind.CHECK}
    assert ledger(story) == entries
    assert story.target.started == started
    assert_ended_once(story)


def test_replicas_that_die_under_every_effect_are_started_again_and_the_life_ends_alike(
    undisturbed: tuple[list[str], Counter[str], int], tmp_path: Path
) -> None:
    """Here the ledger tells more, which replicas were lost; and what waits for one is told later on the same day."""
    entries, _points, started = undisturbed
    seen: Counter[str] = Counter()
    worlds: list[Story] = []

    def reached(point: str) -> None:
        """All replicas are gone, every second time an effect of a kind was recorded."""
        seen.update([point])
        if worlds and point.endswith(":recorded") and not point.startswith("replicas") and seen[point] % 2:
            worlds[0].target.replicas.clear()

    story, _deaths = live_through(tmp_path, reached, world=worlds.append)
    told = [line for line in ledger(story) if "replica.lost" not in line]
    assert sorted(told) == sorted(entries)
    assert story.target.started > started
    assert_ended_once(story)
