"""Whatever people do, in whatever order, and whatever breaks meanwhile: what must never happen does not.

Hypothesis makes up sequences of commands, days, mishaps and crashes; the real loop lives through them in a world of fakes,
and after every step the promises (`promises`, which knows nothing of the code that keeps them) are checked. That the check
can fail is shown at the end: with one rule of the product broken, it is caught.
"""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steersman.decide import rolling_out
from steersman.domain.errors import SteersmanError
from steersman.domain.release import Release
from steersman.domain.traffic import Traffic
from steersman.loop import executor, gathering, reconciler
from steersman.testing.promises import Witness
from steersman.testing.story import DATASET, Story, canary, model_document

VERSIONS = range(1, 5)
BAD, FAILING = 3, 4
"""Version 3 answers worse than the others, version 4 fails every second request."""

PEOPLE = ("approve", "approve_author", "withdraw", "pause", "resume", "promote", "abort", "reject", "retry")
"""What people do to a release. Commands added to the product belong here, or into `Life.act`."""

actions = st.one_of(
    st.tuples(st.sampled_from(["release", "hotfix"]), st.sampled_from(VERSIONS)),
    st.tuples(st.just("days"), st.integers(1, 6)),
    st.tuples(st.sampled_from(PEOPLE), st.integers(0, 2)),
    st.tuples(st.just("rollback"), st.just(0)),
    st.tuples(st.sampled_from(["lose_replica", "lose_router", "restart", "waive", "labels_corrected"]), st.just(0)),
    st.tuples(st.sampled_from(["does_not_start", "starts_again", "retire"]), st.sampled_from(VERSIONS)),
    st.tuples(st.just("freeze"), st.integers(1, 5)),
    st.tuples(st.just("crash"), st.integers(0, 12)),
)


class Died(BaseException):
    """The control server is gone: no handler of the program sees this."""


class Life:
    """One made-up life of one model."""

    def __init__(self, folder: Path, *, tier: int, concurrency: str) -> None:
        self.story = Story.begin(folder, reached=self.reached)
        self.crash_in: int | None = None
        self.policy: dict[str, Any] = {"concurrency": concurrency}
        self.witness = Witness(tier=tier, approvals_at_steps={2: 1})
        self.witness.watch(self.story)
        for number in VERSIONS:
            self.story.registry.add(number)
        self.declare()
        for number in VERSIONS:
            self.story.commands.register("default", "delay", number, actor="ann")
        bad, failing = self.story.digest(BAD), self.story.digest(FAILING)
        self.story.traffic.quality = lambda digest, _day: 0.3 if digest == bad else 1.2
        self.story.traffic.errors = {failing: 0.5}
        self.story.traffic.rows = 60

    def reached(self, _point: str) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                raise Died

    def declare(self) -> None:
        environments = canary(onInconclusive="rollback", **self.policy)
        environments["production"]["strategy"]["canary"]["steps"].insert(2, {"approval": {"count": 1}})
        gates = [{"metric": "roc_auc", "on": "holdout", "vs": "production", "maxDrop": 0.5}]
        holdout = {"dataset": "flights", "last": "7d"}
        document = model_document(tier=self.witness.tier, environments=environments, gates=gates, holdout=holdout)
        self.story.apply(DATASET, document)

    def act(self, name: str, argument: int) -> None:
        story, commands = self.story, self.story.commands
        place = ("default", "delay")
        match name:
            case "release" | "hotfix":
                hotfix = name == "hotfix"
                commands.release(*place, argument, "production", actor="ann", because="try it", hotfix=hotfix)
            case "days":
                story.days(argument)
            case "rollback":
                commands.rollback(*place, "production", actor="bob", because="back")
            case "retire":
                commands.retire(*place, argument, actor="bob", because="old")
            case "waive":
                coming = [r for r in story.releases if r.active]
                version = coming[0].version if coming else 1
                commands.waive(*place, version, "production", skip="1", actor="eve", because="known to be good")
            case "lose_replica":
                story.target.replicas = story.target.replicas[1:]
            case "lose_router":
                story.router.configuration, story.router.misses = None, 1
            case "does_not_start":
                story.target.broken.add(story.digest(argument))
            case "starts_again":
                story.target.broken.discard(story.digest(argument))
            case "labels_corrected":
                story.traffic.corrections += 1
            case "restart":
                self.restart()
            case "crash":
                self.crash_in = argument
                story.days(1)
            case "freeze":
                self.freeze(argument)
            case _:
                self.decide(name, argument)

    def restart(self) -> None:
        self.story = self.story.restart(reached=self.reached)
        self.witness.story_now = self.story

    def freeze(self, days: int) -> None:
        """The whole environment: also for releases that are on their way."""
        now = self.story.clock.now()
        ends = now + timedelta(days=days)
        freeze = {"startsAt": now.isoformat(), "endsAt": ends.isoformat(), "reason": "holidays"}
        spec = {"order": 30, "freeze": [freeze]}
        document = {"apiVersion": "steersman/v1", "kind": "Environment", "metadata": {"name": "production"}}
        self.witness.frozen = [
            (s, now, since) for s, _e, since in self.witness.frozen
        ]  # the new document takes its place
        self.story.apply({**document, "spec": spec})
        self.witness.frozen.append((now, ends, self.story.chapter))

    def decide(self, name: str, argument: int) -> None:
        coming = [r for r in self.story.releases if (r.completion is None) is (name != "retry")]
        if not coming:
            return
        release = coming[argument % len(coming)]
        command = getattr(self.story.commands, name.removesuffix("_author"))
        command(release.id, actor="ann" if name == "approve_author" else f"person-{argument}", because="a reason")

    def live(self, name: str, argument: int) -> None:
        """Do it, whatever becomes of it: refused, or the control server dies and another one comes."""
        try:
            with contextlib.suppress(SteersmanError):
                self.act(name, argument)
            self.story.control.settle()
        except Died:
            self.restart()
            self.story.control.settle()
        self.crash_in = None

    def check(self) -> None:
        assert self.witness.broken(self.story) == []


def live_through(sequence: Sequence[tuple[str, int]], *, tier: int, concurrency: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "BACKOFF_S", (0.0,))
        life = Life(Path(folder), tier=tier, concurrency=concurrency)
        for name, argument in sequence:
            life.live(name, argument)
            life.check()
        end(life)
        life.story.store.close()


def end(life: Life) -> None:
    """Whatever is still on its way can be stopped, and then it ends."""
    life.story.target.broken.clear()
    life.story.days(1)
    for release in life.story.releases:
        if release.active:
            life.story.commands.abort(release.id, actor="bob", because="enough")
    life.story.days(2)
    life.check()
    assert [r.number for r in life.story.releases if r.active] == []


sequences = st.lists(actions, min_size=4, max_size=14)
slow_is_fine = (HealthCheck.too_slow, HealthCheck.data_too_large)


@settings(max_examples=20, deadline=None, suppress_health_check=slow_is_fine, derandomize=True)
@given(
    sequence=sequences, tier=st.sampled_from([1, 2, 3]), concurrency=st.sampled_from(["queue", "supersede", "reject"])
)
def test_what_must_never_happen_does_not(sequence: list[tuple[str, int]], tier: int, concurrency: str) -> None:
    live_through(sequence, tier=tier, concurrency=concurrency)


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=5000, deadline=None, suppress_health_check=slow_is_fine)
@given(
    sequence=st.lists(actions, min_size=4, max_size=30),
    tier=st.sampled_from([1, 2, 3]),
    concurrency=st.sampled_from(["queue", "supersede", "reject"]),
)
def test_what_must_never_happen_does_not_in_long_lives_either(
    sequence: list[tuple[str, int]], tier: int, concurrency: str
) -> None:
    live_through(sequence, tier=tier, concurrency=concurrency)


# --- the check can fail: one rule of the product is broken, and it is caught


def without_gates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rolling_out, "_pending", lambda facts: rolling_out._start(facts, "gates are for others"))


def without_approvals(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rolling_out, "lacking", lambda *_args, **_kwargs: None)


def deaf_to_freezes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gathering, "frozen", lambda *_args: None)


def two_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gathering, "in_progress", lambda _releases: None)


def failures_that_stay(patch: pytest.MonkeyPatch) -> None:
    """What failed keeps its share of the requests."""
    desired = reconciler.desired_traffic

    def traffic(releases: Sequence[Release], *args: Any, **kwargs: Any) -> Traffic | None:
        wanted, newest = desired(releases, *args, **kwargs), releases[-1]
        if wanted is None or newest.completion != "RolledBack":
            return wanted
        return msgspec.structs.replace(wanted, candidate=newest.arm, weight_pct=10.0)

    patch.setattr(reconciler, "desired_traffic", traffic)


PROMOTED = [("release", 1), ("approve", 0), ("approve", 1), ("days", 4)]
JUDGED = [("waive", 0), ("approve", 1), ("days", 1), ("approve", 1), ("days", 3)]
"""What the second release needs to get through shadow (waived: few rows decide nothing), approval and canary."""


@pytest.mark.parametrize(
    ("broken_rule", "sequence", "named"),
    [
        (without_gates, PROMOTED, "without its gates"),
        (without_approvals, [("release", 1), ("days", 1)], "needs 1 people"),
        (deaf_to_freezes, [*PROMOTED, ("freeze", 60), ("release", 2), *JUDGED], "in a freeze"),
        (two_at_once, [*PROMOTED, ("release", 2), ("approve", 1), ("release", 2), ("approve", 2)], "two active"),
        (failures_that_stay, [*PROMOTED, ("release", FAILING), *JUDGED], "was taken back and answers"),
    ],
)
def test_a_broken_rule_is_caught(
    broken_rule: Callable[[pytest.MonkeyPatch], None],
    sequence: list[tuple[str, int]],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "BACKOFF_S", (0.0,))
    broken_rule(monkeypatch)
    life = Life(tmp_path, tier=2, concurrency="queue")
    with contextlib.suppress(AssertionError):  # a broken rule may trip one of the product's own checks as well
        for name, argument in sequence:
            life.live(name, argument)
    assert named in " ".join(life.witness.broken(life.story))
