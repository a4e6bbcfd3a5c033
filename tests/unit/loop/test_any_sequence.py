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
    st.tuples(st.sampled_from(["dies_at_effect", "dies_at_write"]), st.integers(0, 40)),
)

HURRIED = [("release", BETTER), ("agree", 0), ("promote_full", 0), ("agree", 0), ("days", 6)]

beginnings = st.sampled_from(
    [
        [],
        [("carry", 1)],
        [("carry", 1), ("stage", BETTER), ("agree", 0), ("days", 3), ("release", BETTER), ("agree", 0)],
        [("carry", 1), ("skip_staging", BETTER), *HURRIED],
        [("carry", 1), ("carry", FAILING)],
        [("carry", 1), ("carry", BAD), ("retry", 0)],
        [("carry", WORSE), ("carry", BETTER), ("rollback", 0)],
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


@settings(max_examples=20, derandomize=True, **KNOWN)
@given(sequence=sequences(3, 10), declared=declarations)
def test_what_must_never_happen_does_not(sequence: list[tuple[str, int]], declared: Declared) -> None:
    for what in live_through(sequence, declared):
        event(what)


CHUNKS, LIVES = 20, 250
"""5,000 lives, in chunks that can be lived side by side, and again from where it stopped: each has a seed of its own."""

MUST_BE_SEEN = (
    *(f"completed: {how} in production" for how in ("Promoted", "FastPromoted", "Aborted", "Superseded", "RolledBack")),
    "completed: FastRolledBack in production",
    "completed: Promoted in staging",
    "opened: command hotfix in production",
    "release.approval_withdrawn",
    "release.guardrail_broken",
    "release.rejected",
    "release.resumed",
    "skipped analysis by a waiver",
    "skipped analysis by promote",
    "skipped pause by promote",
    "traffic before promotion",
    "waiver used",
    "replica.lost",
    "version.retired",
    "died",
    "freeze",
    "labels_corrected",
    "skip_staging done",
    "retry done",
)


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
    assert [what for what in MUST_BE_SEEN if not seen[what]] == []
