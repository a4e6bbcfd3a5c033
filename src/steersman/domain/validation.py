"""What a well-formed document must also satisfy: names that exist, parts that fit together, steps in a sound order.

Decoding has checked each value by itself; here the parts are held against one another. Everything refused here would
otherwise fail much later, in the middle of a release. What is legal and merely unwise is `steersman.domain.linting`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steersman.domain.cron import PERIOD_MAX, parse_cron, zone_of
from steersman.domain.decoding import shown, suggest
from steersman.domain.errors import Problem
from steersman.domain.measurable import compared_metrics, declared_metrics
from steersman.domain.metrics import METRICS, Direction
from steersman.domain.policies import parse_policy
from steersman.domain.refusals import refusals
from steersman.domain.spec import (
    Analysis,
    AnalysisMode,
    Bake,
    BlueGreen,
    Canary,
    ChallengerMonitor,
    Dataset,
    Document,
    DriftMonitor,
    DropGate,
    Environment,
    EnvironmentPolicy,
    EvidenceUnit,
    FloorGate,
    Freeze,
    GuardrailName,
    Mirror,
    Model,
    ModelType,
    OnInconclusive,
    PairedGate,
    PolicyGate,
    Promote,
    RetrainMode,
    SetWeight,
    Shadow,
    Step,
)

HELD_OUT = "holdout"
"""What a gate may be measured `on`."""


def check(document: Document) -> list[Problem]:
    """Everything in a decoded document that cannot be carried out."""
    refused = [*refusals(document)]
    if isinstance(document, Model):
        return [*refused, *_model(document)]
    if isinstance(document, Dataset):
        return [*refused, *_dataset(document)]
    return [*refused, *_environment(document)]


def strategy_path(environment: str, policy: EnvironmentPolicy) -> str:
    """Where the steps of an environment stand in the document, without the index."""
    return f"spec.environments.{environment}.strategy.{policy.strategy.__struct_config__.tag}"


def _model(model: Model) -> Iterator[Problem]:
    spec = model.spec
    if spec.type is ModelType.LLM_APP:
        yield Problem(path="spec", message="type llm_app is not yet supported, use predictor")
    if spec.train is not None:
        source = spec.train.source
        if (source.directory is None) == (source.git is None):
            yield Problem(path="spec.train.source", message="needs exactly one of directory and git")
        if (source.git is None) != (source.commit is None):
            yield Problem(path="spec.train.source", message="git needs a commit, and a commit needs git")
    yield from declared_metrics(model)
    yield from _gates(model)
    for name, policy in spec.environments.items():
        yield from _policy(model, name, policy)
        yield from _order(model, name, policy)
    yield from _monitors(model)


def _gates(model: Model) -> Iterator[Problem]:
    for index, gate in enumerate(model.spec.gates):
        path = f"spec.gates[{index}]"
        if isinstance(gate, PolicyGate):
            try:
                parse_policy(gate.policy)
            except ValueError as error:
                yield Problem(path=path, message=f"policy: {error}")
            continue
        yield from _metric(model, path, "metric", gate.metric)
        if gate.on != HELD_OUT:
            yield Problem(path=path, message=f"on must be {HELD_OUT}, got {shown(gate.on)}")
        elif model.spec.holdout is None:
            yield Problem(path=path, message="on: holdout needs spec.holdout, which is missing")
        if isinstance(gate, FloorGate) and METRICS.get(gate.metric) is Direction.LOWER:
            message = f"floor needs a metric where higher is better; for {gate.metric} use maxDrop or margin"
            yield Problem(path=path, message=message)


def _metric(model: Model, path: str, label: str, metric: str) -> Iterator[Problem]:
    if metric not in METRICS:
        hint = suggest(metric, list(METRICS)) or f"; known are {', '.join(METRICS)}"
        yield Problem(path=path, message=f"{label}: unknown metric {shown(metric)}{hint}")
    elif model.spec.ground_truth is None:
        yield Problem(path=path, message=f"{label}: {metric} needs labels; declare spec.groundTruth")


def _policy(model: Model, name: str, policy: EnvironmentPolicy) -> Iterator[Problem]:
    yield from _steps(model, strategy_path(name, policy), policy.strategy.steps)
    where = strategy_path(name, policy)
    weights = [step for step in policy.strategy.steps if isinstance(step, SetWeight)]
    mirrors = [step for step in policy.strategy.steps if isinstance(step, Mirror)]
    if isinstance(policy.strategy, Shadow) and weights:
        yield Problem(path=where, message="a shadow sets no weight before it promotes; use canary")
    if isinstance(policy.strategy, Shadow) and not mirrors:
        yield Problem(path=where, message="a shadow needs a mirror step")
    if isinstance(policy.strategy, Canary) and not weights:
        yield Problem(path=where, message="a canary needs a setWeight step; use shadow or allAtOnce otherwise")
    if isinstance(policy.strategy, BlueGreen) and weights:
        yield Problem(path=where, message="a blueGreen sets no weight: promote switches all traffic; use canary")
    if policy.approvals is not None and 0 < policy.approvals.required < len(policy.approvals.roles):
        message = "required must be at least the number of roles: each is held by a person of their own"
        yield Problem(path=f"spec.environments.{name}.approvals", message=message)
    for index, guardrail in enumerate(policy.guardrails):
        path = f"spec.environments.{name}.guardrails[{index}]"
        if (guardrail.limit is None) == (guardrail.ratio is None):
            yield Problem(path=path, message="needs either limit, or vs and ratio")
        if guardrail.name is GuardrailName.ERROR_RATE and guardrail.ratio is not None:
            yield Problem(path=path, message="error-rate needs a limit; vs and ratio compare latencies")
        if (guardrail.ratio is None) != (guardrail.vs is None):
            yield Problem(path=path, message="vs and ratio go together")
        if guardrail.vs not in (None, "stable"):
            yield Problem(path=path, message=f"vs must be stable, got {shown(guardrail.vs)}")
        unit = "fraction" if guardrail.name is GuardrailName.ERROR_RATE else "ms"
        if guardrail.limit is not None and guardrail.limit.unit != unit:
            example = "<= 0.1%" if unit == "fraction" else "<= 250ms"
            yield Problem(path=path, message=f'limit of {guardrail.name} must be written like "{example}"')
        if guardrail.limit is not None and unit == "fraction" and guardrail.limit.value > 1:
            yield Problem(path=path, message="limit of error-rate must be at most 100%")
    yield from _freezes(f"spec.environments.{name}", policy.freeze)


def _order(model: Model, name: str, policy: EnvironmentPolicy) -> Iterator[Problem]:
    """`after` names an environment of the model, and following it comes to an end."""
    known, path = model.spec.environments, f"spec.environments.{name}"
    if policy.after is None:
        return
    if policy.after not in known:
        hint = suggest(policy.after, list(known)) or f"; the model has {', '.join(known)}"
        yield Problem(path=path, message=f"after names no environment of the model: {shown(policy.after)}{hint}")
        return
    seen, before = [name], policy.after
    while before in known and before not in seen:
        seen.append(before)
        before = known[before].after or ""
    if before == name:
        yield Problem(path=path, message=f"after goes in a circle: {' → '.join([*seen, name])}")
    if model.spec.retrain.mode is RetrainMode.AUTO:
        message = (
            f"after {policy.after} and retrain.mode auto exclude each other: an automatic release goes straight to where its "
            "incident is; use mode register"
        )
        yield Problem(path=path, message=message)


def _steps(model: Model, path: str, steps: Sequence[Step]) -> Iterator[Problem]:
    promoted = mirrored = False
    weight = 0
    for index, step in enumerate(steps):
        at = f"{path}.steps[{index}]"
        if promoted and not isinstance(step, Bake):
            yield Problem(path=at, message="only bake may follow promote")
        match step:
            case Promote():
                promoted = True
            case Bake():
                if not promoted:
                    yield Problem(path=at, message="bake must follow promote")
                yield from compared_metrics(model, f"{at}.bake", step)
            case Mirror():
                mirrored = True
            case SetWeight(weight_pct=weight):
                pass
            case Analysis(mode=mode):
                yield from _analysis(model, f"{at}.analysis", step)
                if mode is AnalysisMode.PAIRED and not mirrored:
                    yield Problem(path=f"{at}.analysis", message="mode paired needs a mirror step before it")
                if mode is AnalysisMode.SPLIT and not 0 < weight < 100:
                    message = "mode split needs a setWeight between 1 and 99 before it: both versions must answer"
                    yield Problem(path=f"{at}.analysis", message=message)
            case _:
                pass
    if not promoted:
        yield Problem(path=path, message="steps must contain promote: without it a release never ends")


def _analysis(model: Model, path: str, step: Analysis) -> Iterator[Problem]:
    yield from compared_metrics(model, path, step)
    if step.on_inconclusive is OnInconclusive.PROMOTE_WITHIN_MARGIN and model.spec.tier >= 2:
        message = f"onInconclusive promoteWithinMargin is for tiers 0 and 1, this model has tier {model.spec.tier}"
        yield Problem(path=path, message=message)
    if step.unit is EvidenceUnit.BLOCK and step.block * step.blocks_min > step.duration_max:
        yield Problem(
            path=path, message="maxDuration must be at least blocksMin times block, or no verdict is possible"
        )


def _monitors(model: Model) -> Iterator[Problem]:
    spec = model.spec
    names = [monitor.name for monitor in spec.monitors]
    for index, monitor in enumerate(spec.monitors):
        path = f"spec.monitors[{index}]"
        if monitor.name in names[:index]:
            yield Problem(path=path, message=f"name {shown(monitor.name)} is used twice")
        if not isinstance(monitor, DriftMonitor):
            yield from _metric(model, path, "metric", monitor.metric)
        if isinstance(monitor, ChallengerMonitor) and spec.train is None:
            yield Problem(path=path, message="a challenger must be trained; declare spec.train")
    wanted = spec.incidents.rollback_when
    if wanted is not None and wanted not in names:
        yield Problem(path="spec.incidents", message=f"rollbackWhen {_no_monitor(wanted, names)}")
    elif wanted is not None and not any(
        isinstance(step, Bake) and step.metrics for e in spec.environments.values() for step in e.strategy.steps
    ):
        message = (
            "rollbackWhen needs a bake with metrics: only the pairs of a bake tell that the replaced version is better"
        )
        yield Problem(path="spec.incidents", message=message)
    for index, wanted in enumerate(spec.retrain.on):
        if wanted not in names:
            yield Problem(path="spec.retrain", message=f"on[{index}] {_no_monitor(wanted, names)}")
    if spec.retrain.mode is not RetrainMode.OFF:
        if spec.train is None:
            yield Problem(path="spec.retrain", message=f"mode {spec.retrain.mode} needs spec.train")
        if not spec.retrain.on:
            yield Problem(
                path="spec.retrain", message=f"mode {spec.retrain.mode} needs on: the monitors that trigger it"
            )
    if spec.retrain.mode is RetrainMode.AUTO and not any(isinstance(g, PairedGate | DropGate) for g in spec.gates):
        message = "envelope: maxMetricDrop needs a gate with margin or maxDrop, which measures the drop"
        yield Problem(path="spec.retrain", message=message)


def _no_monitor(name: str, names: Sequence[str]) -> str:
    known = f"; monitors are {', '.join(names)}" if names else "; the model has none"
    return f"names no monitor: {shown(name)}{suggest(name, names) or known}"


def _dataset(dataset: Dataset) -> Iterator[Problem]:
    spec = dataset.spec
    if spec.extend is not None and spec.key_column is None:
        yield Problem(path="spec", message="extend needs keyColumn: rows of production join on it")
    if spec.extend is not None and spec.label_column is None:
        yield Problem(path="spec", message="extend needs labelColumn: the labels of production are written there")


def _environment(environment: Environment) -> Iterator[Problem]:
    yield from _freezes("spec", environment.spec.freeze)


def _freezes(path: str, freezes: Sequence[Freeze]) -> Iterator[Problem]:
    for index, freeze in enumerate(freezes):
        at = f"{path}.freeze[{index}]"
        once, again = (freeze.starts_at, freeze.ends_at), (freeze.cron, freeze.duration)
        if not ((all(once) and not any(again)) or (all(again) and not any(once))):
            yield Problem(path=at, message="needs either startsAt and endsAt, or cron and duration")
            continue
        if freeze.starts_at is not None and freeze.ends_at is not None and freeze.ends_at <= freeze.starts_at:
            yield Problem(path=at, message="endsAt must be later than startsAt")
        if freeze.duration is not None and freeze.duration > PERIOD_MAX:
            message = f"duration must be at most {PERIOD_MAX.days}d; write startsAt and endsAt for a longer one"
            yield Problem(path=at, message=message)
        for label, text, parse in (("cron", freeze.cron, parse_cron), ("timeZone", freeze.time_zone, zone_of)):
            try:
                if text is not None:
                    parse(text)
            except ValueError as error:
                yield Problem(path=at, message=f"{label}: {error}")
