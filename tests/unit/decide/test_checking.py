"""What a check says altogether: what is wrong is wrong, and what was not measured is no pass."""

from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.checking import conclude
from steersman.decide.rolling_out import GateFact
from steersman.domain.verdicts import Outcome, Verdict


def fact(outcome: Outcome, *, applies: bool = True, gate: str = "g", recorded_as: str | None = None) -> GateFact:
    verdict = Verdict(outcome=outcome, because=f"it is {outcome}")
    return GateFact(gate=gate, applies=applies, verdict=verdict, recorded_as=recorded_as)


PASSED, FAILED = fact(Outcome.SUCCESSFUL), fact(Outcome.FAILED)
UNSURE, UNMEASURED = fact(Outcome.INCONCLUSIVE), fact(Outcome.ERROR)


def test_all_that_applies_must_pass() -> None:
    aside = fact(Outcome.INCONCLUSIVE, applies=False)
    assert conclude([PASSED, PASSED, aside]) == (Outcome.SUCCESSFUL, "2 of 2 passed; 1 did not apply")


def test_a_failure_is_a_failure_whatever_else_could_not_be_measured() -> None:
    assert conclude([UNMEASURED, FAILED, UNSURE])[0] is Outcome.FAILED
    assert conclude([UNMEASURED, UNSURE])[0] is Outcome.ERROR
    assert conclude([PASSED, UNSURE])[0] is Outcome.INCONCLUSIVE


def test_nothing_judged_is_no_pass() -> None:
    assert conclude([])[0] is Outcome.INCONCLUSIVE
    assert conclude([fact(Outcome.INCONCLUSIVE, applies=False)])[0] is Outcome.INCONCLUSIVE


def test_the_ledger_is_told_nothing_of_the_machine() -> None:
    timed = fact(Outcome.FAILED, recorded_as="failed, measured on this machine")
    assert conclude([timed])[1] == "1 of 1 failed: g: failed, measured on this machine"


@given(st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=6))
def test_only_successes_are_a_success(outcomes: list[Outcome]) -> None:
    found, _ = conclude([fact(outcome) for outcome in outcomes])
    assert (found is Outcome.SUCCESSFUL) == (set(outcomes) == {Outcome.SUCCESSFUL})
