"""What is legal in a document and likely to hurt: found when it is written, not when a release hangs.

Each rule exists because somebody's release once paused for ever, passed without evidence, or went wrong unseen after
it had reached everybody. An *error* is something that cannot come true (a step the target cannot do, labels that come
too late): it stops `apply` in environments whose mode is `prevent`. A *warning* is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from steersman.domain.durations import format_duration
from steersman.domain.metrics import HARM_RANGES
from steersman.domain.spec import (
    DEFAULT_ENVIRONMENTS,
    ROWS_MIN_DEFAULT,
    Analysis,
    AnalysisMode,
    Approval,
    Bake,
    EnvironmentPolicy,
    EnvironmentSpec,
    Mirror,
    Model,
    OnInconclusive,
    PerformanceMonitor,
    PolicyMode,
    RetrainMode,
    SetWeight,
)
from steersman.domain.spec.watching import REFERENCE_WINDOWS
from steersman.domain.validation import strategy_path

TIER_APPROVED_MIN = 2
"""From this tier on a person must agree before a release goes on."""

UNAPPROVED = frozenset({"dev", "staging"})
"""Environments where that is not demanded: nobody outside of the team is answered there."""


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One piece of advice: where, how serious, and what to do."""

    environment: str
    path: str
    level: Level
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path}: {self.message}"


def lint(
    model: Model,
    *,
    environments: Mapping[str, EnvironmentSpec] | None = None,
    targets: Mapping[str, frozenset[str]] | None = None,
) -> list[Finding]:
    """Findings of all rules, errors first; none for an environment whose mode is `off`.

    `environments` are those with a document of their own; the others are as they exist without one. `targets` says what
    each target can do (`steersman.ports.Target.capabilities`); without it targets are not judged.
    """
    found: list[Finding] = []
    for name, policy in model.spec.environments.items():
        environment = environment_spec(name, environments)
        if environment.mode is PolicyMode.OFF:
            continue
        found += _delivery(model, name, policy)
        found += _rollback(model, name, policy)
        found += _forgetting(model, name)
        if targets is not None:
            found += _target(model, name, policy, targets.get(environment.target, frozenset()))
    return sorted(found, key=lambda finding: finding.level is not Level.ERROR)


def environment_spec(name: str, environments: Mapping[str, EnvironmentSpec] | None = None) -> EnvironmentSpec:
    """What an environment is: as its document says, else as it exists without one."""
    known = (environments or {}).get(name)
    return known or DEFAULT_ENVIRONMENTS.get(name, EnvironmentSpec())


def _delivery(model: Model, name: str, policy: EnvironmentPolicy) -> Iterator[Finding]:
    path = strategy_path(name, policy)
    steps = policy.strategy.steps
    for index, step in enumerate(steps):
        if isinstance(step, Analysis):
            yield from _analysis(model, name, f"{path}.steps[{index}].analysis", step)
        if isinstance(step, Analysis | Bake):
            yield from _few_rows(name, f"{path}.steps[{index}]", step)
    analyses = [step for step in steps if isinstance(step, Analysis)]
    if analyses and not any(step.critical for step in analyses):
        message = "no analysis is critical: a candidate that fails them all is not rolled back; set critical: true"
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)
    full = any(isinstance(step, SetWeight) and step.weight_pct == 100 for step in steps)
    if full and not any(isinstance(step, Bake) for step in steps) and name not in UNAPPROVED:
        message = "steps reach 100 without a bake: a late failure would go unseen; add a bake after promote"
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)
    agreed = any(isinstance(step, Approval) for step in steps) or (policy.approvals and policy.approvals.required)
    if model.spec.tier >= TIER_APPROVED_MIN and not agreed and name not in UNAPPROVED:
        message = (
            f"tier {model.spec.tier}: a release waits for an approval although the document does not say so; "
            "write approvals: {required: 1}"
        )
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)


def _analysis(model: Model, name: str, path: str, step: Analysis) -> Iterator[Finding]:
    truth = model.spec.ground_truth
    if step.max_duration is None:
        message = (
            f"no maxDuration: it looks for {step.duration_max.days}d and then counts as inconclusive; say how long"
        )
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)
    if step.on_inconclusive is None:
        message = "no onInconclusive: the release pauses until a person decides; say what is wanted"
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)
    if model.spec.retrain.mode is RetrainMode.AUTO and step.when_inconclusive is OnInconclusive.PAUSE:
        message = (
            "retrain.mode auto with onInconclusive pause: an automatic release would wait for a person; decide which"
        )
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)
    if truth is not None and truth.horizon > step.duration_max:
        message = (
            "groundTruth.horizon is beyond maxDuration: no label can arrive in time, so it can only be inconclusive"
        )
        yield Finding(environment=name, path=path, level=Level.ERROR, message=message)


def _few_rows(name: str, path: str, step: Analysis | Bake) -> Iterator[Finding]:
    """Fewer requests than the asymptotic sequence needs can be judged of some metrics only."""
    if step.rows_min is None or step.rows_min >= ROWS_MIN_DEFAULT:
        return
    split = isinstance(step, Analysis) and step.mode is AnalysisMode.SPLIT
    refused = [metric for metric in step.metrics if split or metric not in HARM_RANGES]
    if refused:
        because = "in a split they are weighted" if split else "a single request's harm has no known range"
        message = (
            f"rowsMin {step.rows_min}: {', '.join(refused)} cannot be judged by fewer than {ROWS_MIN_DEFAULT} requests "
            f"({because}), and is an error until there are as many; leave rowsMin out"
        )
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)


def _rollback(model: Model, name: str, policy: EnvironmentPolicy) -> Iterator[Finding]:
    """A performance monitor's first windows say what is usual: within them it finds nothing."""
    wanted = next((m for m in model.spec.monitors if m.name == model.spec.incidents.rollback_when), None)
    bake = next((step for step in policy.strategy.steps if isinstance(step, Bake)), None)
    if not isinstance(wanted, PerformanceMonitor) or bake is None:
        return
    silent: timedelta = (REFERENCE_WINDOWS + 1) * wanted.window
    if bake.duration < silent:
        message = (
            f"incidents.rollbackWhen: {wanted.name} says nothing in its first {format_duration(silent)}, and the bake is "
            f"over after {format_duration(bake.duration)}; name a drift monitor, or let it bake longer"
        )
        path = strategy_path(name, policy)
        yield Finding(environment=name, path=path, level=Level.WARNING, message=message)


def _forgetting(model: Model, name: str) -> Iterator[Finding]:
    """What is deleted before its label has arrived is evidence of nothing."""
    truth, retention = model.spec.ground_truth, model.spec.inference_log.retention
    if truth is not None and retention is not None and retention <= truth.horizon:
        message = (
            f"predictions are deleted after {format_duration(retention)}, before their labels have arrived "
            f"(groundTruth.horizon {format_duration(truth.horizon)}); keep them longer"
        )
        yield Finding(environment=name, path="spec.inferenceLog.retention", level=Level.ERROR, message=message)


def _target(model: Model, name: str, policy: EnvironmentPolicy, can: frozenset[str]) -> Iterator[Finding]:
    """What the steps need and the target does not say it can do."""
    path = strategy_path(name, policy)
    for index, step in enumerate(policy.strategy.steps):
        if isinstance(step, Mirror) and "mirror" not in can:
            message = "the environment's target cannot mirror"
            yield Finding(environment=name, path=f"{path}.steps[{index}]", level=Level.ERROR, message=message)
        if isinstance(step, SetWeight) and 0 < step.weight_pct < 100 and "setWeight" not in can:
            message = "the environment's target cannot split traffic"
            yield Finding(environment=name, path=f"{path}.steps[{index}]", level=Level.ERROR, message=message)
    if model.spec.serving.keep_warm and "keepWarm" not in can:
        message = "the environment's target cannot keep a version warm: a rollback is a cold start; write keepWarm: 0"
        yield Finding(environment=name, path="spec.serving", level=Level.ERROR, message=message)
