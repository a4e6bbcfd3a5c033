"""What is legal in a document and likely to hurt: found when it is written, not when a release hangs.

Each rule exists because somebody's release once paused for ever, passed without evidence, or went wrong unseen after
it had reached everybody. An *error* stops `apply` in environments whose mode is `prevent`; a *warning* is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from steersman.domain.spec import (
    Analysis,
    Approval,
    Bake,
    EnvironmentPolicy,
    Mirror,
    Model,
    OnInconclusive,
    RetrainMode,
    SetWeight,
)
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

    path: str
    level: Level
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path}: {self.message}"


def lint(model: Model, capabilities: Mapping[str, frozenset[str]] | None = None) -> list[Finding]:
    """Findings of all rules, errors first.

    `capabilities` names, by environment, what its target can do (`mirror`, `split`); without it targets are not judged.
    """
    found: list[Finding] = []
    for name, policy in model.spec.environments.items():
        found += _delivery(model, name, policy)
        if capabilities is not None and name in capabilities:
            found += _target(name, policy, capabilities[name])
    return sorted(found, key=lambda finding: finding.level is not Level.ERROR)


def _delivery(model: Model, name: str, policy: EnvironmentPolicy) -> Iterator[Finding]:
    path = strategy_path(name, policy)
    steps = policy.strategy.steps
    for index, step in enumerate(steps):
        if isinstance(step, Analysis):
            yield from _analysis(model, f"{path}.steps[{index}].analysis", step)
    analyses = [step for step in steps if isinstance(step, Analysis)]
    if analyses and not any(step.critical for step in analyses):
        message = "no analysis is critical: a candidate that fails them all is not rolled back; set critical: true"
        yield Finding(path=path, level=Level.WARNING, message=message)
    full = any(isinstance(step, SetWeight) and step.weight_pct == 100 for step in steps)
    if full and not any(isinstance(step, Bake) for step in steps) and name not in UNAPPROVED:
        message = "steps reach 100 without a bake: a late failure would go unseen; add a bake after promote"
        yield Finding(path=path, level=Level.WARNING, message=message)
    agreed = any(isinstance(step, Approval) for step in steps) or (policy.approvals and policy.approvals.required)
    if model.spec.tier >= TIER_APPROVED_MIN and not agreed and name not in UNAPPROVED:
        message = f"tier {model.spec.tier} demands an approval step, or approvals.required of at least 1"
        yield Finding(path=path, level=Level.ERROR, message=message)


def _analysis(model: Model, path: str, step: Analysis) -> Iterator[Finding]:
    truth = model.spec.ground_truth
    if step.max_duration is None:
        message = (
            f"no maxDuration: it looks for {step.duration_max.days}d and then counts as inconclusive; say how long"
        )
        yield Finding(path=path, level=Level.WARNING, message=message)
    if step.on_inconclusive is None:
        message = "no onInconclusive: the release pauses until a person decides; say what is wanted"
        yield Finding(path=path, level=Level.WARNING, message=message)
    if model.spec.retrain.mode is RetrainMode.AUTO and step.when_inconclusive is OnInconclusive.PAUSE:
        message = (
            "retrain.mode auto with onInconclusive pause: an automatic release would wait for a person; decide which"
        )
        yield Finding(path=path, level=Level.WARNING, message=message)
    if truth is not None and truth.horizon > step.duration_max:
        message = (
            "groundTruth.horizon is beyond maxDuration: no label can arrive in time, so it can only be inconclusive"
        )
        yield Finding(path=path, level=Level.ERROR, message=message)


def _target(name: str, policy: EnvironmentPolicy, capabilities: frozenset[str]) -> Iterator[Finding]:
    path = strategy_path(name, policy)
    for index, step in enumerate(policy.strategy.steps):
        if isinstance(step, Mirror) and "mirror" not in capabilities:
            message = "the environment's target cannot mirror"
            yield Finding(path=f"{path}.steps[{index}]", level=Level.ERROR, message=message)
        if isinstance(step, SetWeight) and 0 < step.weight_pct < 100 and "split" not in capabilities:
            message = "the environment's target cannot split traffic"
            yield Finding(path=f"{path}.steps[{index}]", level=Level.ERROR, message=message)
