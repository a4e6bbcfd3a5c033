"""Whatever people do, in whatever order, and whatever breaks meanwhile: what must never happen does not.

Hypothesis makes up sequences of commands, days and mishaps; the real loop lives through them in a world of fakes, and after
every step the promises are checked on what was stored, on what the router was told, and in the ledger.
"""

import contextlib
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steersman.domain.errors import SteersmanError
from steersman.domain.release import Opened, Phase, Release
from steersman.ledger.entry import Entry, parse_entry
from steersman.loop import executor
from steersman.testing.story import DATASET, Story, canary, model_document

VERSIONS = range(1, 5)
BAD, FAILING = 3, 4
"""Version 3 answers worse than the others, version 4 fails every second request."""

actions = st.one_of(
    st.tuples(st.just("release"), st.sampled_from(VERSIONS)),
    st.tuples(st.just("days"), st.integers(1, 6)),
    st.tuples(
        st.sampled_from(["approve", "approve_author", "pause", "resume", "promote", "abort", "reject"]),
        st.integers(0, 2),
    ),
    st.tuples(st.just("rollback"), st.just(0)),
    st.tuples(st.sampled_from(["lose_replica", "lose_router", "restart"]), st.just(0)),
    st.tuples(st.sampled_from(["does_not_start", "starts_again", "retire"]), st.sampled_from(VERSIONS)),
    st.tuples(st.just("freeze"), st.integers(1, 5)),
)


class Life:
    """One made-up life of one model."""

    def __init__(self, folder: Path, *, tier: int, concurrency: str) -> None:
        self.story = Story.begin(folder)
        self.tier = tier
        self.policy: dict[str, Any] = {"concurrency": concurrency}
        for number in VERSIONS:
            self.story.registry.add(number)
        self.declare()
        for number in VERSIONS:
            self.story.commands.register("default", "delay", number, actor="ann")
        bad, failing = self.story.digest(BAD), self.story.digest(FAILING)
        self.story.traffic.quality = lambda digest, _day: 0.3 if digest == bad else 1.2
        self.story.traffic.errors = {failing: 0.5}
        self.story.traffic.rows = 60

    def declare(self) -> None:
        environments = canary(onInconclusive="rollback", **self.policy)
        gates = [{"metric": "roc_auc", "on": "holdout", "vs": "production", "maxDrop": 0.5}]
        holdout = {"dataset": "flights", "last": "7d"}
        document = model_document(tier=self.tier, environments=environments, gates=gates, holdout=holdout)
        self.story.apply(DATASET, document)

    def act(self, name: str, argument: int) -> None:
        story, commands = self.story, self.story.commands
        match name:
            case "release":
                commands.release("default", "delay", argument, "production", actor="ann", because="try it")
            case "days":
                story.days(argument)
            case "rollback":
                commands.rollback("default", "delay", "production", actor="bob", because="back")
            case "retire":
                commands.retire("default", "delay", argument, actor="bob", because="old")
            case "lose_replica":
                story.target.replicas = story.target.replicas[1:]
            case "lose_router":
                story.router.configuration, story.router.misses = None, 1
            case "does_not_start":
                story.target.broken.add(story.digest(argument))
            case "starts_again":
                story.target.broken.discard(story.digest(argument))
            case "restart":
                self.story = story.restart()
            case "freeze":
                start = story.clock.now()
                freeze = {"startsAt": start.isoformat(), "endsAt": (start + timedelta(days=argument)).isoformat()}
                self.policy["freeze"] = [{**freeze, "reason": "holidays"}]
                self.declare()
            case _:
                self.decide(name, argument)

    def decide(self, name: str, argument: int) -> None:
        coming = [r for r in self.story.releases if r.completion is None]
        if not coming:
            return
        release = coming[argument % len(coming)]
        command = getattr(self.story.commands, name.removesuffix("_author"))
        command(release.id, actor="ann" if name == "approve_author" else f"person-{argument}", because="a reason")

    def settle(self) -> None:
        self.story.control.settle()

    def entries(self) -> list[Entry]:
        with self.story.store.read() as tx:
            return [parse_entry(row.body) for row in tx.ledger.rows()]

    def check(self) -> None:
        releases = self.story.releases
        self.check_router()
        moving = [r for r in releases if _moves_traffic(r)]
        assert len(moving) <= 1, [r.number for r in moving]
        entries = self.entries()
        ended = Counter(e.object.name for e in entries if e.action == "release.completed")
        assert set(ended.values()) <= {1}
        assert len(ended) == sum(r.completion is not None for r in releases)
        for release in releases:
            self.check_earned(release, entries)

    def check_router(self) -> None:
        for configuration in self.story.router.applied:
            for route in configuration.routes:
                assert sum(variant.weight_pct for variant in route.variants) == pytest.approx(100.0)
                assert all(variant.addresses for variant in route.variants)

    def check_earned(self, release: Release, entries: list[Entry]) -> None:
        """No traffic without gates; no step without the approvals its tier demands."""
        name = f"delay/production/{release.number}"
        mine = [e.action for e in entries if e.object.name == name]
        if release.opened is Opened.ROLLBACK:
            assert any(r.version == release.version and r.promoted_at for r in self.story.releases)
            return
        if "release.step_started" not in mine:
            assert not release.exposed
            return
        begun = mine.index("release.step_started")
        assert "release.gated" in mine[:begun]
        people = {e.actor.subject for e in entries if e.object.name == name and e.action == "release.approved"}
        assert "ann" not in people
        if self.tier >= 2:
            assert mine[:begun].count("release.approved") >= 1


def _moves_traffic(release: Release) -> bool:
    going = release.phase is Phase.PROGRESSING or (
        release.phase is Phase.PAUSED and release.resumes is Phase.PROGRESSING
    )
    return release.completion is None and going


def live_through(sequence: list[tuple[str, int]], *, tier: int, concurrency: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "BACKOFF_S", (0.0,))
        life = Life(Path(folder), tier=tier, concurrency=concurrency)
        for name, argument in sequence:
            with contextlib.suppress(SteersmanError):
                life.act(name, argument)
            life.settle()
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


@settings(max_examples=25, deadline=None, suppress_health_check=slow_is_fine, derandomize=True)
@given(sequence=sequences, tier=st.sampled_from([1, 2]), concurrency=st.sampled_from(["queue", "supersede", "reject"]))
def test_what_must_never_happen_does_not(sequence: list[tuple[str, int]], tier: int, concurrency: str) -> None:
    live_through(sequence, tier=tier, concurrency=concurrency)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=1500, deadline=None, suppress_health_check=slow_is_fine)
@given(
    sequence=st.lists(actions, min_size=4, max_size=30),
    tier=st.sampled_from([1, 2]),
    concurrency=st.sampled_from(["queue", "supersede", "reject"]),
)
def test_what_must_never_happen_does_not_in_long_lives_either(
    sequence: list[tuple[str, int]], tier: int, concurrency: str
) -> None:
    live_through(sequence, tier=tier, concurrency=concurrency)
