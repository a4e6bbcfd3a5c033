"""What may be asked about one step by itself: its name, who may skip it, and the traffic it asks for.

The planner, the commands of people, the pages and the forecast all ask here, so a step has one name everywhere.
"""

from datetime import timedelta

import msgspec

from steersman.decide.approving import APPROVALS_OF_TIER
from steersman.domain import spec
from steersman.domain.durations import format_duration
from steersman.domain.release import Opened, Release

APPROVED_TIER_MIN = min(APPROVALS_OF_TIER)
"""From this tier on nobody skips a proof alone."""

GATES_STEP = -1
"""The step number under which gates and the approvals before the first step are kept."""


def steps_of(policy: spec.EnvironmentPolicy, release: Release) -> tuple[spec.Step, ...]:
    """The steps this release goes through. A rollback goes straight to an already promoted version."""
    if release.opened is Opened.ROLLBACK:
        return (spec.SetWeight(weight_pct=100), spec.Promote())
    return policy.strategy.steps


def step_name(step: spec.Step) -> str:
    """A step in a few words, the same on every page."""
    match step:
        case spec.Mirror():
            return f"mirror {step.percent} %"
        case spec.SetWeight():
            return f"setWeight {step.weight_pct} %"
        case spec.Pause(duration=None):
            return "pause until resumed"
        case spec.Pause(duration=duration):
            return f"pause {format_duration(duration or timedelta())}"
        case spec.Analysis():
            return f"analysis of {', '.join(step.metrics)}"
        case spec.Approval():
            return f"approval by {step.count} × {step.role}"
        case spec.Promote():
            return "promote"
        case spec.Bake():
            return f"bake {format_duration(step.duration)}"


def promotes_past(step: spec.Step, tier: int) -> bool:
    """Whether `promote` may pass over the step: from tier 2 an analysis stands unless an approver waives it."""
    return isinstance(step, spec.Pause) or (isinstance(step, spec.Analysis) and tier < APPROVED_TIER_MIN)


def with_weight(release: Release, policy: spec.EnvironmentPolicy) -> Release:
    """The release with the share of requests its present step asks for."""
    step = steps_of(policy, release)[release.step]
    if not isinstance(step, spec.SetWeight):
        return release
    # The first version has nobody to share with: whoever asks is answered by it.
    weight = 100.0 if release.previous is None else float(step.weight_pct)
    return msgspec.structs.replace(release, weight_pct=weight, exposed=release.exposed or weight > 0)
