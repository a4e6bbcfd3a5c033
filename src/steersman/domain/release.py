"""A release brings one version into one environment; its life is the tables in this module.

What may follow what is data: the reconciler, the documentation and the console render the same rows, and a phase or a
completion without a row fails at import. A release ends in exactly one completion; until bake and label horizon have
passed it is Verifying and has none.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from steersman.domain.approval import Waived


class Phase(StrEnum):
    PENDING = "Pending"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    DEGRADED = "Degraded"
    VERIFYING = "Verifying"
    HEALTHY = "Healthy"


class Completion(StrEnum):
    PROMOTED = "Promoted"
    FAST_PROMOTED = "FastPromoted"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"
    ROLLED_BACK = "RolledBack"
    FAST_ROLLED_BACK = "FastRolledBack"


class Cause(StrEnum):
    """What a release that waits for a person, or that ended without its promotion standing or proved, was stopped by.

    Recorded by whoever stops it, at that moment; `because` beside it is the sentence with the numbers, for people only.
    """

    HELD = "held"
    PAUSE_STEP = "pause-step"
    APPROVAL_LACKING = "approval-lacking"
    OUTSIDE_ENVELOPE = "outside-envelope"
    NOTHING_TO_COMPARE = "nothing-to-compare"
    GATE_FAILED = "gate-failed"
    GATE_UNDECIDED = "gate-undecided"
    GATE_UNMEASURED = "gate-unmeasured"
    GATES_BROKEN = "gates-broken"
    ANALYSIS_FAILED = "analysis-failed"
    ANALYSIS_UNDECIDED = "analysis-undecided"
    ANALYSIS_UNMEASURED = "analysis-unmeasured"
    LABELS_LACKING = "labels-lacking"
    SPLIT_MISMATCH = "split-mismatch"
    GUARDRAIL_BROKEN = "guardrail-broken"
    BAKE_FAILED = "bake-failed"
    BAKE_UNMEASURED = "bake-unmeasured"
    PROGRESS_DEADLINE = "progress-deadline"
    NOT_RUNNING = "not-running"
    REJECTED = "rejected"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"
    TAKEN_BACK = "taken-back"


PHASES: dict[Phase, str] = {
    Phase.PENDING: "opened; gates are being evaluated, no request of production reaches the version",
    Phase.PROGRESSING: "carrying out its steps",
    Phase.PAUSED: "waiting for a person: an approval, a resume, or a decision on an inconclusive verdict",
    Phase.DEGRADED: "failed; traffic goes back first, capacity second, status last",
    Phase.VERIFYING: "promoted; bake and label horizon have not passed, the previous version stays warm",
    Phase.HEALTHY: "finished",
}

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.PROGRESSING, Phase.PAUSED, Phase.DEGRADED}),
    Phase.PROGRESSING: frozenset({Phase.PAUSED, Phase.DEGRADED, Phase.VERIFYING}),
    Phase.PAUSED: frozenset({Phase.PENDING, Phase.PROGRESSING, Phase.DEGRADED, Phase.VERIFYING}),
    Phase.DEGRADED: frozenset({Phase.HEALTHY}),
    Phase.VERIFYING: frozenset({Phase.DEGRADED, Phase.HEALTHY}),
    Phase.HEALTHY: frozenset(),
}

COMPLETIONS: dict[Completion, tuple[frozenset[Phase], str]] = {
    Completion.PROMOTED: (
        frozenset({Phase.VERIFYING}),
        "every step passed, then bake and label horizon; where a later release took its place before they were over, or the "
        "bake measured nothing of what it was to measure, `verified_at` is empty and it proves nothing for the next environment",
    ),
    Completion.FAST_PROMOTED: (
        frozenset({Phase.VERIFYING}),
        "as Promoted, and a person's `promote` had skipped an analysis or a pause",
    ),
    Completion.ABORTED: (
        frozenset({Phase.DEGRADED}),
        "stopped before the version answered a request of production: a gate, the shadow, a deadline or a person",
    ),
    Completion.SUPERSEDED: (
        frozenset({Phase.DEGRADED}),
        "a newer release of the same model and environment, or a rollback, took its place before it was promoted",
    ),
    Completion.ROLLED_BACK: (
        frozenset({Phase.DEGRADED}),
        "stopped after the version had answered requests of production; the previous version answers again",
    ),
    Completion.FAST_ROLLED_BACK: (
        frozenset({Phase.VERIFYING}),
        "brought an earlier promoted version back by `rollback`, without gates and steps, which it had passed before",
    ),
}

NOT_MADE = (Completion.ABORTED, Completion.ROLLED_BACK)
"""How a release ends that somebody should look at; a superseded one was meant to."""

if set(PHASES) != set(Phase) or set(TRANSITIONS) != set(Phase) or set(COMPLETIONS) != set(Completion):
    raise ImportError("a phase or completion has no row in the tables of steersman.domain.release")


class IllegalTransition(ValueError):
    """A planner asked for a change the tables do not allow; the release stays as it is."""


class Opened(StrEnum):
    """Who or what opened a release; `automated_share` counts the first two as the pipeline."""

    REMEDY = "remedy"
    COMMAND = "command"
    ROLLBACK = "rollback"


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """A version in a role of a release: enough to deploy, route and name it."""

    release: str
    version: int
    digest: str


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What the same digest proved in the environment before: the release that stood its bake there, and what was said."""

    environment: str
    release: str
    number: int
    completion: Completion
    promoted_at: datetime
    verified_at: datetime
    verdicts: tuple[str, ...]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one release, re-read by every turn of the loop.

    `previous` is what answered when this release was opened and what it goes back to. `step` indexes the strategy's
    steps as they were when the release was opened (`document` is that revision's digest); `entered` says that the traffic
    the step asks for is in effect, `step_started_at` since when. `weight_pct` is the share of requests its version is
    meant to answer, `exposed` whether it ever was above zero. `ending` is how a Degraded release will complete, `resumes`
    the phase a Paused one goes back to, `held` that a person paused it, so that only a person lets it go on, `cause` what
    stopped it (None while nothing did, and in releases stopped by 0.1, which kept the sentence only). `full`: a
    person promoted past all analyses and pauses to come; `hurried`: past at least one of them. `hotfix`: freezes do not hold
    it. `proved` is what the digest brings along from the environment before, `waived` the steps it may pass over.
    `verified_at`: bake and label horizon have passed, and something was measured of what was to be. `row` counts writes: a
    writer that read an older row loses.
    """

    id: str
    workspace: str
    model: str
    environment: str
    number: int
    version: int
    digest: str
    previous: Arm | None
    document: str
    phase: Phase
    step: int = 0
    step_started_at: datetime
    entered: bool = False
    weight_pct: float = 0.0
    exposed: bool = False
    opened: Opened
    opened_at: datetime
    opened_by: str
    incident: str | None = None
    promoted_at: datetime | None = None
    degraded_at: datetime | None = None
    closed_at: datetime | None = None
    completion: Completion | None = None
    ending: Completion | None = None
    full: bool = False
    hurried: bool = False
    hotfix: bool = False
    proved: Proof | None = None
    waived: tuple[Waived, ...] = ()
    verified_at: datetime | None = None
    resumes: Phase | None = None
    held: bool = False
    cause: Cause | None = None
    because: str = ""
    row: int = 0

    @property
    def arm(self) -> Arm:
        return Arm(release=self.id, version=self.version, digest=self.digest)

    @property
    def active(self) -> bool:
        """True until promoted or closed: at most one such release per model and environment."""
        return self.completion is None and self.phase not in (Phase.VERIFYING, Phase.HEALTHY)


def moved(
    release: Release, phase: Phase, *, at: datetime, because: str, cause: Cause | None = None, **changes: object
) -> Release:
    """The release in another phase; raises IllegalTransition where TRANSITIONS has no such arrow.

    `cause` is what stops it, where the other phase is one in which it is stopped; what stopped it before is forgotten.
    """
    if phase not in TRANSITIONS[release.phase]:
        raise IllegalTransition(f"release {release.id}: {release.phase} may not become {phase}")
    return msgspec.structs.replace(release, phase=phase, step_started_at=at, because=because, cause=cause, **changes)


def completed(release: Release, completion: Completion, *, at: datetime, because: str) -> Release:
    """The release at its end; raises IllegalTransition where COMPLETIONS does not allow it from this phase."""
    if release.completion is not None:
        raise IllegalTransition(f"release {release.id} is already {release.completion}")
    if release.phase not in COMPLETIONS[completion][0]:
        raise IllegalTransition(f"release {release.id}: {release.phase} cannot complete as {completion}")
    return msgspec.structs.replace(release, phase=Phase.HEALTHY, completion=completion, closed_at=at, because=because)
