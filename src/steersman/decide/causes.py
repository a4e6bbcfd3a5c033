"""What verdicts stopped a release by, where several of them did: the one cause that a person should mend or weigh first."""

from collections.abc import Collection

from steersman.domain.release import Cause
from steersman.domain.verdicts import Doubt, Outcome, Verdict

GATES_SAID = {
    Cause.GATE_FAILED: "gate failed",
    Cause.GATE_UNDECIDED: "gate inconclusive",
    Cause.GATE_UNMEASURED: "gate not measured",
}
"""How the sentence begins that says so to people."""


def cause_of_gates(outcomes: Collection[Outcome]) -> Cause:
    """The gravest of what gates found that did not pass."""
    if Outcome.FAILED in outcomes:
        return Cause.GATE_FAILED
    return Cause.GATE_UNMEASURED if Outcome.ERROR in outcomes else Cause.GATE_UNDECIDED


def cause_of_undecided(verdicts: Collection[Verdict | None]) -> Cause:
    """What a person should mend or weigh first: a comparison that is none, then what was not measured, then harm."""
    doubts = {verdict.doubt for verdict in verdicts if verdict is not None}
    if Doubt.SPLIT in doubts:
        return Cause.SPLIT_MISMATCH
    if Doubt.LABELS in doubts:
        return Cause.LABELS_LACKING
    if any(verdict is None or not verdict.measured for verdict in verdicts):
        return Cause.ANALYSIS_UNMEASURED
    worse = any(verdict is not None and _surely_worse(verdict) for verdict in verdicts)
    return Cause.ANALYSIS_FAILED if worse else Cause.ANALYSIS_UNDECIDED


def _surely_worse(verdict: Verdict) -> bool:
    """Beyond the margin for sure, which a metric that is not critical may be without failing the release."""
    return verdict.lower is not None and verdict.margin is not None and verdict.lower > verdict.margin
