"""What a judgement says, in one shape for gates, analyses, guardrails and recoveries.

A verdict is evidence: it goes into the ledger, onto the release page and into mails, so it carries its own numbers.
Whoever reads one later must be able to see how much was measured, in what unit, with what interval and by which
method, without asking the code that made it. Two rules follow from that: no data is never a pass (`Outcome.ERROR` and
`Outcome.INCONCLUSIVE` exist beside failed), and an estimate never travels without its n.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

NUnit = Literal["days", "blocks", "requests", "rows", "entities"]
"""What one piece of evidence is. Requests of one day share their weather, so it is often the day and not the row."""


class Outcome(StrEnum):
    """The four ends of a judgement."""

    SUCCESSFUL = "successful"
    FAILED = "failed"
    INCONCLUSIVE = (
        "inconclusive"  # measured, and the data cannot tell: too few labels, the interval straddles the limit
    )
    ERROR = "error"  # not measured: query failed, timed out, labels missing. Never counts as successful.


class Doubt(StrEnum):
    """What may be wrong with a comparison itself, so that nothing is concluded from it whatever it measured."""

    SPLIT = "split"  # the arms did not get the shares of requests that were asked for
    LABELS = "labels"  # too few requests have a label, or surely more of one arm than of the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judgement with the numbers it rests on.

    `estimate`, `lower` and `upper` are in the metric's own unit; for comparisons they are *harm*: the candidate minus
    what it is compared with, signed so that above zero is worse. None where nothing could be measured. A one-sided
    bound leaves its other side None.
    """

    outcome: Outcome
    because: str  # one sentence with the numbers, shown to people and kept in the ledger
    metric: str | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    n: int = 0
    n_unit: NUnit = "requests"
    margin: float | None = None  # tolerated harm, or the limit of a guardrail or a floor
    method: str | None = None  # name of the interval's construction, with its alpha
    needed: int | None = None  # how many more `n_unit` a decision is expected to take at this estimate; None: unknown
    data: str | None = None  # digest over the rows it rests on (ids, scores, labels); the same rows give the same one
    code: str | None = None  # what computed it: product, version, and a digest of the modules that measure and judge
    doubt: Doubt | None = None  # set where it is about the comparison and not about harm

    @property
    def measured(self) -> bool:
        """Whether it says anything of the version: something was measured, and the comparison was one."""
        return self.outcome is not Outcome.ERROR and self.estimate is not None

    def __post_init__(self) -> None:
        """Refuse verdicts that could not be shown: no reason, or an interval the wrong way round."""
        if not self.because:
            raise ValueError("a verdict needs a reason")
        if self.n < 0:
            raise ValueError(f"n must not be negative, got {self.n}")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"lower {self.lower} lies above upper {self.upper}")
