"""Whatever people do, in whatever order, and whatever breaks meanwhile: what must never happen does not.

Hypothesis makes up a model's document and sequences of commands, days, mishaps and crashes; the real loop lives through them
in a world of fakes, and after every step the promises (`promises`, which knows nothing of the code that keeps them) are
checked. That each check can fail is shown in `test_broken_promises.py`, where one rule of the product after the other is
broken.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st

from steersman.loop import executor
from steersman.testing.lives import BAD, BETTER, FAILING, VERSIONS, WORSE, Declared, Life

PEOPLE = (
    "approve",
    "approve_author",
    "withdraw",
    "pause",
    "resume",
    "promote",
    "promote_full",
    "abort",
    "reject",
    "retry",
)
"""What people do to a release. Commands added to the product belong here, or into `Life.act`."""

WORLD = ("lose_replica", "lose_router", "restart", "labels_corrected", "redeclare", "accept_incident")

actions = st.one_of(
    st.tuples(st.sampled_from(["release", "hotfix", "stage", "carry"]), st.sampled_from(VERSIONS)),
    st.tuples(st.sampled_from(["carry", "stage"]), st.sampled_from([1, BETTER])),
    st.tuples(st.sampled_from(["days", "agree"]), st.integers(1, 6)),
    st.tuples(st.sampled_from(PEOPLE), st.integers(0, 2)),
    st.tuples(st.sampled_from(["rollback", "rollback_staging"]), st.just(0)),
    st.tuples(st.sampled_from(WORLD), st.just(0)),
    st.tuples(st.sampled_from(["does_not_start", "starts_again", "retire", "skip_staging"]), st.sampled_from(VERSIONS)),
    st.tuples(st.just("waive"), st.sampled_from([0, 1, 2, 4])),
    st.tuples(st.sampled_from(["promote", "promote_full", "resume"]), st.integers(0, 1)),
    st.tuples(st.just("freeze"), st.integers(1, 5)),
    st.tuples(st.just("challenge"), st.sampled_from(VERSIONS)),
    st.tuples(st.sampled_from(["dies_at_effect", "dies_at_write"]), st.integers(0, 40)),
)

HURRIED = [("release", BETTER), ("agree", 0), ("promote_full", 0), ("agree", 0), ("days", 6)]

HASTY = [("release", WORSE), ("agree", 0), ("promote_full", 0), ("challenge", BETTER), ("days", 6), ("days", 6)]

beginnings = st.sampled_from(
    [
        [],
        [("carry", 1)],
        [("carry", 1), ("stage", BETTER), ("agree", 0), ("days", 3), ("release", BETTER), ("agree", 0)],
        [("carry", 1), ("skip_staging", BETTER), *HURRIED],
        [("carry", 1), ("carry", FAILING)],
        [("carry", 1), ("carry", BAD), ("retry", 0)],
        [("carry", WORSE), ("carry", BETTER), ("rollback", 0)],
        [("carry", 1), ("days", 4), *HASTY],
    ]
)
"""Most lives begin where there is something to lose."""


def sequences(shortest: int, longest: int) -> st.SearchStrategy[list[tuple[str, int]]]:
    rest = st.lists(actions, min_size=shortest, max_size=longest)
    return st.builds(lambda first, more: [*first, *more], beginnings, rest)


declarations = st.builds(
    Declared,
    strategy=st.sampled_from(["canary", "blueGreen", "shadow", "allAtOnce"]),
    tier=st.sampled_from([1, 2, 3]),
    concurrency=st.sampled_from(["queue", "supersede", "reject"]),
    staged=st.booleans(),
    inconclusive=st.sampled_from(["rollback", "pause", "promoteWithinMargin"]),
    watched=st.booleans(),
)


def live_through(sequence: Sequence[tuple[str, int]], declared: Declared) -> Counter[str]:
    """The whole life, and what there was in it."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "BACKOFF_S", (0.0,))
        life = Life(Path(folder), declared)
        for name, argument in sequence:
            life.live(name, argument)
            life.check()
        life.end()
        life.story.store.close()
    return Counter(dict.fromkeys((*life.lived, *life.witness.seen), 1))


IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

KNOWN: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": (HealthCheck.too_slow, HealthCheck.data_too_large),
}


@settings(max_examples=12, derandomize=True, **KNOWN)
@given(sequence=sequences(3, 10), declared=declarations)
def test_what_must_never_happen_does_not(sequence: list[tuple[str, int]], declared: Declared) -> None:
    for what in live_through(sequence, declared):
        event(what)


CHUNKS, LIVES = 20, 250
"""5,000 lives, in chunks that can be lived side by side, and again from where it stopped: each has a seed of its own."""


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_must_never_happen_does_not_in_many_long_lives(chunk: int) -> None:
    seen: Counter[str] = Counter()

    @seed(chunk)
    @settings(max_examples=LIVES, phases=(Phase.generate, Phase.shrink), **KNOWN)
    @given(sequence=sequences(8, 30), declared=declarations)
    def lives(sequence: list[tuple[str, int]], declared: Declared) -> None:
        seen.update(live_through(sequence, declared))
        seen.update(["lives"])

    lives()
    print(f"chunk {chunk}: " + ", ".join(f"{what} {count}" for what, count in sorted(seen.items())))
    assert seen["lives"] >= LIVES


ONE, RACED = Declared(tier=1), Declared(tier=1, concurrency="supersede")
WATCHED = Declared(tier=1, strategy="allAtOnce", watched=True)


@pytest.mark.parametrize(
    ("declared", "sequence", "seen"),
    [
        (ONE, [("carry", 1), ("carry", FAILING)], ["completed: Promoted in production"]),
        (Declared(staged=True), [("carry", 1), ("days", 3)], ["completed: Promoted in staging", "opened: command in production"]),
        (ONE, [("carry", 1), *HURRIED], ["completed: FastPromoted in production", "skipped analysis by promote"]),
        (Declared(), [("carry", 1), ("release", 2), ("agree", 0), ("waive", 1)], ["skipped analysis by a waiver", "waiver used"]),
        (ONE, [("carry", 1), ("release", BAD)], ["release.gate_failed", "completed: Aborted in production"]),
        (ONE, [("carry", 1), ("carry", WORSE), ("days", 6)], ["release.analysed", "completed: Aborted in production"]),
        (RACED, [("carry", 1), ("release", 2), ("release", 5)], ["completed: Superseded in production"]),
        (ONE, [("carry", 1), *HURRIED, ("rollback", 0)], ["completed: FastRolledBack in production"]),
        (ONE, [("carry", 1), ("hotfix", 2), ("agree", 0), ("waive", 1), ("agree", 0)], ["traffic before promotion"]),
        (WATCHED, [("carry", 1), ("days", 4), *HASTY], ["incident.opened", "opened: rollback in production"]),
        (WATCHED, [("carry", WORSE), ("challenge", 2), *[("days", 6)] * 3], ["opened: remedy in production"]),
        (ONE, [("carry", 1), ("dies_at_write", 20), ("carry", 2), ("days", 4)], ["died", "release.promoted"]),
        (ONE, [("carry", 1), ("lose_replica", 0), ("lose_router", 0), ("restart", 0)], ["replica.lost"]),
    ],
)  # fmt: skip
def test_each_kind_of_thing_happens_in_some_life(
    declared: Declared, sequence: list[tuple[str, int]], seen: list[str]
) -> None:
    happened = live_through(sequence, declared)
    assert [what for what in seen if not happened[what]] == []
