"""What a check of a version says altogether: its own tests and its gates, run without a release.

One answer for programs that let a change in or not: *failed* when something is known to be wrong, whatever else could not
be measured; *successful* only when everything that applies was measured and passed; and nothing that applies is no pass.
"""

from collections.abc import Sequence

from steersman.decide.rolling_out import GateFact
from steersman.domain.verdicts import Outcome

TESTS = "tests"
"""The name under which a version's own tests stand among its gates."""


def conclude(facts: Sequence[GateFact]) -> tuple[Outcome, str]:
    """The outcome of a check, and one sentence for the ledger: no measurement of the machine is in it."""
    applying = [fact for fact in facts if fact.applies]
    aside = len(facts) - len(applying)
    rest = f"; {aside} did not apply" if aside else ""
    if not applying:
        return Outcome.INCONCLUSIVE, f"nothing was judged: no tests are declared and no gate applies{rest}"
    for outcome in (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE):
        decisive = [fact for fact in applying if fact.verdict.outcome is outcome]
        if decisive:
            said = "; ".join(f"{fact.gate}: {fact.recorded.because}" for fact in decisive)
            return outcome, f"{len(decisive)} of {len(applying)} {outcome}: {said}{rest}"
    return Outcome.SUCCESSFUL, f"{len(applying)} of {len(applying)} passed{rest}"
