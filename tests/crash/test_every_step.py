"""The control server dies at every step of a whole life, and the life goes on as if it had not.

One life is told undisturbed: a first release, a challenger, an incident, a retraining through gates, shadow and canary, a
verified recovery, a rollback by hand, a changed alias, a retirement. Then it is told again and again with a control
server that dies before each effect, after it, after its record, and at its commits, each followed by a new control server
over the same state. The ledger must come out the same, entry by entry.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from steersman.domain.incident import IncidentState
from steersman.domain.operation import OperationKind
from steersman.loop import executor
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


def rolled_back(story: Story) -> None:
    if not any(line.endswith("rollback.requested delay/production/2") for line in story.told()):
        story.commands.rollback("default", "delay", "production", actor="bob", because="a complaint")


def alias_moved(story: Story) -> None:
    story.registry.set_alias("delay", "champion", None)


def retired(story: Story) -> None:
    story.commands.retire("default", "delay", 2, actor="bob", because="never needed")


def at(day: int) -> Callable[[Story], None]:
    def settled(story: Story) -> None:
        story.clock.move(START + timedelta(days=day))
        story.control.settle()

    return settled


LIFE: list[Callable[[Story], None]] = [
    applied,
    first_release,
    *(at(day) for day in range(30)),
    rolled_back,
    at(30),
    alias_moved,
    at(31),
    retired,
    at(32),
]
"""Every step may be asked for twice: a person who got no answer looks, and asks again."""


def live_through(folder: Path, reached: Callable[[str], None] = lambda _point: None) -> tuple[Story, int]:
    """The whole life, and how often the control server died in it."""
    story, deaths = Story.begin(folder, reached=reached), 0
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


def test_the_life_has_every_kind_of_effect_and_comes_to_a_good_end(
    undisturbed: tuple[list[str], Counter[str], int], tmp_path: Path
) -> None:
    _entries, points, _started = undisturbed
    assert {point.partition(":")[0] for point in points} == set(OperationKind)
    story, _deaths = live_through(tmp_path)
    assert story.incidents[0].state is IncidentState.CLOSED
    assert story.router.weights() == {"1": 100.0}


@pytest.mark.parametrize("kind", OperationKind)
@pytest.mark.parametrize("when", ["before", "after", "recorded"])
def test_dying_at_an_effect_changes_nothing_that_is_told(
    kind: OperationKind, when: str, undisturbed: tuple[list[str], Counter[str], int], tmp_path: Path
) -> None:
    entries, points, started = undisturbed
    died: Counter[str] = Counter()

    def reached(point: str) -> None:
        """Die every second time this point is reached: at each operation once, then it may go on."""
        if point == f"{kind}:{when}":
            died.update([point])
            if died[point] % 2:
                raise Died

    story, deaths = live_through(tmp_path, reached)

    assert deaths >= max(points[f"{kind}:{when}"] // 2, 1)
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


@pytest.mark.parametrize("committed", [False, True], ids=["before its commit", "after its commit"])
@pytest.mark.parametrize(
    "offset", [0, 11, *(pytest.param(n, marks=pytest.mark.soak) for n in range(23) if n not in (0, 11))]
)
def test_dying_at_a_commit_loses_no_entry_and_changes_nothing_without_one(
    *,
    offset: int,
    committed: bool,
    undisturbed: tuple[list[str], Counter[str], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries, _points, started = undisturbed
    with dying_at_commits(monkeypatch, every=23, offset=offset, committed=committed):
        story, deaths = live_through(tmp_path)
    assert deaths > 10
    assert ledger(story) == entries
    assert story.target.started == started
    assert_ended_once(story)
