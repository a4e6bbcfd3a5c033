"""How a version enters an environment: strategies, their steps, guardrails, approvals, freezes.

A strategy is a list of steps, executed in order. A step is written as a mapping with one key (`- setWeight: 10`) and is
one struct of the union `Step` here. The planner matches on the struct, so a new step is a type error wherever it is
not yet handled.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

import msgspec

from steersman.domain.spec.measuring import ComparedMetric
from steersman.domain.spec.parts import Column, Duration, Name, Part, Percent, Text

Slices = Annotated[tuple[Column, ...], msgspec.Meta(max_length=5)]
RowsMin = Annotated[int, msgspec.Meta(ge=100, le=10_000_000)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]

ANALYSIS_DURATION_DEFAULT = timedelta(days=28)
"""How long an analysis without `maxDuration` may look: four weeks, so that it always ends. `lint` asks for a value."""

MARGIN_DEFAULT = 0.02
"""Difference that still counts as equal, in the metric's own unit; .02 of AUC is what a day of a few hundred rows can
tell apart within two weeks."""

BLOCKS_MIN_DEFAULT = 5
"""Fewest blocks (days) a verdict may rest on: rows of one day share their weather, so fewer say nothing."""

ROWS_MIN_DEFAULT = 500
"""Fewest requests a verdict over rows, or about a slice, may rest on: below it the central limit is not reached."""

COVERAGE_MIN_DEFAULT = 0.5
"""Least share of matured requests that have a label: where most have none, those that do are a selection."""


class AnalysisMode(StrEnum):
    """Which evidence an analysis compares."""

    PAIRED = "paired"
    """Both versions answered the same requests (needs a mirror before it)."""
    SPLIT = "split"
    """Each version answered its own share of the requests at the same time (needs a weight below 100 before it)."""


class EvidenceUnit(StrEnum):
    """What counts as one independent piece of evidence."""

    BLOCK = "block"
    """The mean of a block (a day), or of a cluster: rows of one block may share whatever they like."""
    ROW = "row"
    """Every request by itself. Only where nothing is shared between the requests of a day."""


class OnInconclusive(StrEnum):
    """What happens when `maxDuration` ends and the data cannot tell."""

    PAUSE = "pause"
    ROLLBACK = "rollback"
    PROMOTE_WITHIN_MARGIN = "promoteWithinMargin"
    """Go on if the estimate itself lies within the margin; recorded as such; tiers 0 and 1 only."""


class Mirror(Part, frozen=True, kw_only=True, tag_field="step", tag="mirror"):
    """Copy requests to the candidate; its answers are recorded, never returned."""

    percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    max_duration: Duration | None = None
    """Refused in this version: copies are made until the candidate answers itself, or the release ends."""


class SetWeight(Part, frozen=True, kw_only=True, tag_field="step", tag="setWeight"):
    """Let the candidate answer this share of the traffic. Written as a bare number: `- setWeight: 10`."""

    weight_pct: Percent


class Pause(Part, frozen=True, kw_only=True, tag_field="step", tag="pause"):
    """Wait this long, guardrails watching; without a duration, until someone resumes."""

    duration: Duration | None = None


class Analysis(Part, frozen=True, kw_only=True, tag_field="step", tag="analysis"):
    """Judge the candidate against the stable version by blocks of evidence, and go on, roll back, or stop."""

    metrics: Annotated[tuple[ComparedMetric, ...], msgspec.Meta(min_length=1, max_length=20)]
    mode: AnalysisMode = AnalysisMode.PAIRED
    block: Duration = timedelta(days=1)
    """What counts as one piece of evidence."""
    blocks_min: Annotated[int, msgspec.Meta(ge=2, le=1000)] = BLOCKS_MIN_DEFAULT
    margin: Annotated[float, msgspec.Meta(ge=0.0)] = MARGIN_DEFAULT
    """How much worse still counts as no worse, in the metric's own unit."""
    alpha: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.05
    """Chance, over all looks, metrics and slices together, of a wrong verdict about a candidate at the margin."""
    unit: EvidenceUnit = EvidenceUnit.BLOCK
    rows_min: RowsMin | None = None
    """With `unit: row`, the fewest requests a verdict may rest on; 500 without it. Below 500 only in pairs, of a metric whose
    range is known (`accuracy`, `brier`, `agreement`, `error_rate`); of another one an error until there are 500."""
    slices: Slices = ()
    """Input columns: each value of each is judged by itself as well, and the worst one decides."""
    slice_margin: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    """The margin within one slice; that of all requests without it."""
    slice_rows_min: RowsMin | None = None
    """A slice with fewer requests is not judged and holds nothing up; 500 without it."""
    coverage_min: Share = COVERAGE_MIN_DEFAULT
    """Least share of matured requests with a label, in each arm; below it nothing is judged."""
    critical: bool = False
    """A failed critical analysis rolls back; a failed other one is recorded and the release pauses."""
    max_duration: Duration | None = None
    on_inconclusive: OnInconclusive | None = None

    @property
    def duration_max(self) -> timedelta:
        """The time after which it ends inconclusive, declared or not."""
        return ANALYSIS_DURATION_DEFAULT if self.max_duration is None else self.max_duration

    @property
    def when_inconclusive(self) -> OnInconclusive:
        """What is done then; a person decides unless the document says otherwise."""
        return self.on_inconclusive or OnInconclusive.PAUSE

    @property
    def evidence_min(self) -> int:
        """Fewest pieces of evidence, in its own unit, with which it may be promoted undecided."""
        return self.rows_min or ROWS_MIN_DEFAULT if self.unit is EvidenceUnit.ROW else self.blocks_min


class ApproverRole(StrEnum):
    """Roles whose members may agree to a release."""

    APPROVER = "approver"
    """Agrees for those who answer for the model."""
    VALIDATOR = "validator"
    """Agrees as a second line of its own: model risk, validation, compliance."""


class Approval(Part, frozen=True, kw_only=True, tag_field="step", tag="approval"):
    """Wait until people with this role agree, other than the one who opened the release."""

    role: ApproverRole = ApproverRole.APPROVER
    count: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1


class Promote(Part, frozen=True, kw_only=True, tag_field="step", tag="promote"):
    """Make the candidate the stable version; the previous one stays warm. The phase becomes Verifying."""


class Bake(Part, frozen=True, kw_only=True, tag_field="step", tag="bake"):
    """Keep judging after the promotion, against the replaced version; a failure rolls back."""

    duration: Duration
    metrics: Annotated[tuple[ComparedMetric, ...], msgspec.Meta(max_length=20)] = ()
    margin: Annotated[float, msgspec.Meta(ge=0.0)] = MARGIN_DEFAULT
    block: Duration = timedelta(days=1)
    blocks_min: Annotated[int, msgspec.Meta(ge=2, le=1000)] = BLOCKS_MIN_DEFAULT
    alpha: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.05
    unit: EvidenceUnit = EvidenceUnit.BLOCK
    rows_min: RowsMin | None = None
    """With `unit: row`, the fewest requests a verdict may rest on; 500 without it. Below 500 only in pairs, of a metric whose
    range is known (`accuracy`, `brier`, `agreement`, `error_rate`); of another one an error until there are 500."""
    slices: Slices = ()
    """Input columns: each value of each is judged by itself as well, and the worst one decides."""
    slice_margin: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    """The margin within one slice; that of all requests without it."""
    slice_rows_min: RowsMin | None = None
    """A slice with fewer requests is not judged and holds nothing up; 500 without it."""
    coverage_min: Share = COVERAGE_MIN_DEFAULT
    """Least share of matured requests with a label, in each arm; below it nothing is judged."""


Step = Mirror | SetWeight | Pause | Analysis | Approval | Promote | Bake

Steps = Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=50)]


class Canary(Part, frozen=True, kw_only=True, tag_field="strategy", tag="canary"):
    """Rising shares of real traffic, in the order of the steps."""

    steps: Steps


class Shadow(Part, frozen=True, kw_only=True, tag_field="strategy", tag="shadow"):
    """Judge on copies only, then switch all traffic at once. Its steps set no weight."""

    steps: Steps


class AllAtOnce(Part, frozen=True, kw_only=True, tag_field="strategy", tag="allAtOnce"):
    """Switch all traffic at once when the candidate is ready."""

    steps: Steps = (SetWeight(weight_pct=100), Promote())


class BlueGreen(Part, frozen=True, kw_only=True, tag_field="strategy", tag="blueGreen"):
    """Run the candidate at full capacity beside the stable version, judge it there, then switch all traffic at once.

    Its steps set no weight: `promote` is the switch. The replaced version keeps running at full capacity for `warmFor`.
    """

    steps: Steps
    warm_for: Duration = timedelta(hours=1)
    """Time after the switch in which the replaced version stays as it was, so that going back takes seconds; the release
    is not finished before. `serving.keepWarm` may keep it longer."""


Strategy = Canary | BlueGreen | Shadow | AllAtOnce


class GuardrailName(StrEnum):
    """What a guardrail measures, over the requests the candidate answered or got copies of."""

    ERROR_RATE = "error-rate"
    P50_LATENCY = "p50-latency"
    P95_LATENCY = "p95-latency"
    P99_LATENCY = "p99-latency"
    ERROR_BUDGET = "error-budget"


class Limit(Part, frozen=True, kw_only=True):
    """A bound in words: `<= 0.1%` for a rate, `<= 250ms` for a time. Inside, a rate is a fraction in [0, 1]."""

    operator: str
    """`<=` or `<`."""
    value: float
    unit: str
    """`fraction` or `ms`."""

    def holds(self, measured: float) -> bool:
        return measured < self.value if self.operator == "<" else measured <= self.value


class BurnWindow(Part, frozen=True, kw_only=True):
    """Two windows that end now; the budget burns too fast when it does in both."""

    long: Duration
    """Says that it matters; at most a day."""
    short: Duration
    """Says that it still goes on."""
    factor: Annotated[float, msgspec.Meta(gt=0.0, le=10_000.0)]
    """Times the rate that would use up the budget exactly at the end of its period."""


BURN_WINDOWS_DEFAULT = (
    BurnWindow(long=timedelta(hours=1), short=timedelta(minutes=5), factor=14.4),
    BurnWindow(long=timedelta(hours=6), short=timedelta(minutes=30), factor=6.0),
)
"""2 % of a 30-day budget within an hour, or 5 % within six: the fast and the slow page of Google, *The Site Reliability
Workbook* (2018), chapter 5."""

Objective = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{2}(\.[0-9]{1,6})?%$(?!\n)")]
"""A share of requests that are answered without an error, as text: `99.9%`."""


class BurnRate(Part, frozen=True, kw_only=True):
    """An error budget: what an objective leaves for errors, and how fast it may be used up."""

    objective: Objective
    windows: Annotated[tuple[BurnWindow, ...], msgspec.Meta(min_length=1, max_length=10)] = BURN_WINDOWS_DEFAULT
    period: Duration = timedelta(days=30)
    """Over which the budget is counted, for all versions of the model in the environment."""
    holds_releases: bool = False
    """While the period's budget is used up, no release starts or goes on. It never stops a rollback."""

    @property
    def budget(self) -> float:
        """The tolerated error rate, a fraction."""
        return round(1.0 - float(self.objective.removesuffix("%")) / 100, 12)


class Guardrail(Part, frozen=True, kw_only=True):
    """A service level the candidate must keep: absolute (`limit`), from its first copied request on; beside stable
    (`ratio`) or as an error budget (`burnRate`), from its first answer on."""

    name: GuardrailName
    limit: Limit | None = None
    vs: str | None = None
    """`stable`: compare with the version that answers the rest of the traffic at the same time."""
    ratio: Annotated[float, msgspec.Meta(gt=0.0, le=100.0)] | None = None
    burn_rate: BurnRate | None = None
    """For `error-budget` only."""
    critical: bool = False
    """A violated critical guardrail rolls back at once; another one is recorded."""
    requests_min: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 30
    """Below this many requests the guardrail is inconclusive: 30 without an error bound the rate below 10 %."""


class Approvals(Part, frozen=True, kw_only=True):
    """Who must agree before a release of this environment starts."""

    required: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    """People in all, never the author; tiers 2 and 3 demand at least one and two, except in dev and staging."""
    roles: Annotated[tuple[ApproverRole, ...], msgspec.Meta(min_length=1, max_length=10)] = (ApproverRole.APPROVER,)
    """Each role named here must be held by a person of their own among those who agreed."""
    expires: Duration = timedelta(days=7)
    """An approval older than this when the release would go on no longer counts."""


class Concurrency(StrEnum):
    """What a new release does when one of the same model is still on its way."""

    QUEUE = "queue"
    SUPERSEDE = "supersede"
    REJECT = "reject"


class Freeze(Part, frozen=True, kw_only=True):
    """A period in which no release starts or goes on. It never stops a rollback, and a hotfix passes it.

    Either once, from `startsAt` to `endsAt`, or again and again: from each moment `cron` names, for `duration`.
    """

    starts_at: datetime | None = None
    ends_at: datetime | None = None
    cron: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    """Minute, hour, day of month, month, day of week, as in a crontab: `0 16 * * FRI`."""
    duration: Duration | None = None
    """How long each such period lasts; at most 31 days."""
    time_zone: Annotated[str, msgspec.Meta(max_length=60)] = "UTC"
    """Whose clock `cron` reads, such as `Europe/Berlin`."""
    reason: Text


class EnvironmentPolicy(Part, frozen=True, kw_only=True):
    """How versions of one model enter one environment."""

    strategy: Strategy = AllAtOnce()
    guardrails: Annotated[tuple[Guardrail, ...], msgspec.Meta(max_length=20)] = ()
    approvals: Approvals | None = None
    after: Name | None = None
    """The environment the same digest must have been promoted in before, its bake and label horizon passed."""
    concurrency: Concurrency = Concurrency.QUEUE
    progress_deadline: Duration = timedelta(minutes=30)
    """Time the world may take to bring about what a step asks for (workers ready, a route applied, gates evaluated) before
    the release is given up. Waits that a step declares, people, queues and freezes do not count."""
    freeze: Annotated[tuple[Freeze, ...], msgspec.Meta(max_length=100)] = ()
    rollback_period: Duration | None = None
    """How long after it was replaced a version may be brought back without gates and steps; without it, always."""
