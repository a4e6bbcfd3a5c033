"""A person who made mistakes in a document learns all of them, where they are, and what was probably meant."""

from __future__ import annotations

import pytest

from steersman.client.documents import FILE_BYTES_MAX, parse_yaml
from steersman.domain.errors import BadDocument

MODEL = """
apiVersion: steersman/v1
kind: Model
metadata: {name: flight-delay, workspace: ops}
spec:
  tier: 1
  versions: {registry: mlflow, name: flight-delay}
  serving: {replicas: 2, stickyBy: flight_id}
  groundTruth: {column: late, horizon: 1d}
  train: {source: {directory: .}, command: [python, train.py], data: {dataset: flights}}
  holdout: {dataset: flights, last: 14d}
  gates:
  - {metric: log_loss, margin: 0.03}
  - {metric: roc_auc, maxDrop: 0.01}
  - {policy: "version.signature == production.signature"}
  environments:
    production:
      strategy:
        canary:
          steps:
          - mirror: {percent: 100}
          - analysis: {metrics: [roc_auc], critical: true, maxDuration: 14d, onInconclusive: promoteWithinMargin}
          - setWeight: 10
          - pause: {duration: 1d}
          - setWeight: 100
          - promote: {}
          - bake: {duration: 14d, metrics: [roc_auc]}
      guardrails:
      - {name: error-rate, limit: "<= 0.1%", critical: true}
      - {name: p99-latency, vs: stable, ratio: 1.2}
  monitors:
  - {name: inputs, kind: drift}
  - {name: quality, kind: performance, metric: log_loss}
  - {name: freshness, kind: challenger, metric: roc_auc}
  incidents: {rollbackWhen: quality}
  retrain: {mode: auto, on: [freshness], cooldown: 14d}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(BadDocument) as caught:
        parse_yaml(text)
    return [str(problem) for problem in caught.value.problems]


STEPS = "spec.environments.production.strategy.canary"


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("setWeight: 10\n", "setWeight: 120\n", f"{STEPS}.steps[2]: setWeight must be within 0..100, got 120"),
        ("setWeight: 10\n", "setWeight: lots\n", f'{STEPS}.steps[2]: setWeight must be a whole number, got "lots"'),
        ("- pause:", "- pauze:", f'{STEPS}.steps[3]: unknown step "pauze", did you mean "pause"?'),
        ("percent: 100", "percent: 0", f"{STEPS}.steps[0].mirror: percent must be within 1..100, got 0"),
        ("stickyBy", "stikyBy", 'spec.serving: unknown field "stikyBy", did you mean "stickyBy"?'),
        ("tier: 1", "tier: 7", "spec: tier must be within 0..3, got 7"),
        ("tier: 1", "tier: true", "spec: tier must be a whole number, got true"),
        ("tier: 1", "tier:", "spec: tier must not be empty; leave the line out for its default"),
        ("horizon: 1d", "horizon: 86400", "spec.groundTruth: horizon must be a duration such as 30s, 5m, 2h or 1d"),
        ("last: 14d", "last: 0d", 'spec.holdout: last must be longer than 0s, got "0d"'),
        ("last: 14d", "last: 99999d", "spec.holdout: last must be at most 3660d"),
        ("margin: 0.03", "margin: .nan", 'spec.gates[0]: margin must be a finite number, got ".nan"'),
        ("margin: 0.03", "margin: -1", "spec.gates[0]: margin must be at least 0, got -1"),
        (", maxDrop: 0.01", "", "spec.gates[1]: a gate needs one of margin, maxDrop, floor, ceiling, schema, maxS"),
        ("metric: log_loss, margin", "metric: logloss, margin", 'spec.gates[0]: metric: unknown metric "logloss", did'),
        ("[roc_auc], crit", "[wit], crit", f'{STEPS}.steps[1].analysis: metrics[0]: unknown metric "wit"; known are'),
        ("[roc_auc], crit", "[roc_auc], mode: split, crit", f"{STEPS}.steps[1].analysis: mode split needs a setWeight"),
        ("[roc_auc], crit", "[agreement, score_shit], crit", 'metrics[1]: unknown metric "score_shit", did you mean'),
        (
            "[roc_auc], crit",
            "[roc_auc], unit: row, crit",
            "metrics[0]: roc_auc is no mean of rows, so no row is evidence",
        ),
        ("[roc_auc], crit", "[brier], rowsMin: 500, crit", f"{STEPS}.steps[1].analysis: rowsMin needs unit row"),
        ("[roc_auc], crit", "[brier], sliceMargin: 0.1, crit", "analysis: sliceMargin and sliceRowsMin need slices"),
        ("[roc_auc], crit", "[brier], slices: [a, a], crit", 'analysis: slices[1]: "a" is named twice'),
        ("[roc_auc]}\n      guard", "[agrement]}\n      guard", f"{STEPS}.steps[6].bake: metrics[0]: unknown metric"),
        ("metric: log_loss, margin", "metric: agreement, margin", 'spec.gates[0]: metric: unknown metric "agreement"'),
        ("  gates:", "  metrics: [{name: f1, expression: score, direction: lower}]\n  gates:", "spec.metrics[0]: name"),
        (
            "  gates:",
            "  metrics: [{name: cost, expression: avg(score), direction: lower}]\n  gates:",
            "spec.metrics[0]: expression: function avg is not one of abs, cast, ceil",
        ),
        (
            "  gates:",
            "  metrics: [{name: cost, entryPoint: acme, expression: score, direction: lower}]\n  gates:",
            "spec.metrics[0]: write one of expression and entryPoint",
        ),
        (
            "  gates:",
            "  metrics: [{name: cost, direction: lower}]\n  gates:",
            "spec.metrics[0]: write one of expression and entryPoint",
        ),
        (
            "  gates:",
            "  metrics: [{name: cost, expression: price * 2, direction: lower}]\n  gates:",
            "spec.metrics[0]: expression: it does not name score, so it is the same for every version",
        ),
        (
            "  gates:",
            "  metrics: [{name: cost, expression: score, direction: down}]\n  gates:",
            "spec.metrics[0]: direction must be one of",
        ),
        ("version.signature ==", "version.age <", "spec.gates[2]: policy: this expression is not yet supported"),
        ("metric: roc_auc, maxDrop: 0.01", "metric: brier, floor: 0.1", "spec.gates[1]: floor needs a metric where"),
        (
            "maxDrop: 0.01",
            "ceiling: 0.1",
            "spec.gates[1]: ceiling needs a metric where lower is better; for roc_auc use",
        ),
        (
            "metric: roc_auc, maxDrop: 0.01",
            "documented: [../x]",
            "spec.gates[1]: documented[0]: must be FILE, FILE#Hea",
        ),
        ("log_loss, margin", "log_loss, block: 7d, margin", "spec.gates[0]: holdout.last must be at least blocksMin"),
        ("last: 14d", "last: 4d", "spec.gates[0]: holdout.last must be at least blocksMin times block, or no verdict"),
        (
            "vs: stable, ratio: 1.2",
            "burnRate: {objective: 99%}, ratio: 1",
            "guardrails[1]: burnRate is for error-budget",
        ),
        (
            "p99-latency, vs: stable, ratio: 1.2",
            "error-budget, burnRate: {objective: 99%, windows: [{long: 2d, short: 1h, factor: 1}]}",
            "guardrails[1].burnRate.windows[0]: short must be shorter than long, and long at most 1d",
        ),
        (
            "p99-latency, vs: stable, ratio: 1.2",
            "error-budget, burnRate: {objective: 12%}",
            "guardrails[1].burnRate: objective must be at least 50% and below 100%",
        ),
        (
            "canary:",
            "blueGreen:",
            "spec.environments.production.strategy.blueGreen: a blueGreen sets no weight: promote",
        ),
        ("canary:", "canery:", 'spec.environments.production.strategy: unknown strategy "canery", did you mean'),
        ("canary:", "shadow:", "spec.environments.production.strategy.shadow: a shadow sets no weight"),
        ("- promote: {}", "- pause: {}", f"{STEPS}: steps must contain promote: without it a release never ends"),
        ("- mirror: {percent: 100}", "- pause: {}", f"{STEPS}.steps[1].analysis: mode paired needs a mirror step"),
        ('"<= 0.1%"', '"> 3"', "spec.environments.production.guardrails[0]: limit must be a bound such as"),
        ('"<= 0.1%"', '"<= 9ms"', "spec.environments.production.guardrails[0]: limit of error-rate must be written"),
        (", ratio: 1.2", "", "spec.environments.production.guardrails[1]: needs either limit, or vs and ratio"),
        (
            "name: p99-latency, vs",
            "name: error-budget, vs",
            "guardrails[1]: error-budget needs burnRate, and no limit, vs or ratio",
        ),
        (
            "{duration: 14d, metrics: [roc_auc]}",
            "{duration: 14d}",
            "spec.incidents: rollbackWhen needs a bake with metrics",
        ),
        (
            "kind: drift",
            "kind: drft",
            'spec.monitors[0]: kind must be one of drift, performance, challenger, got "drft"',
        ),
        ("name: quality, kind", "name: inputs, kind", 'spec.monitors[1]: name "inputs" is used twice'),
        (
            "rollbackWhen: quality",
            "rollbackWhen: qualty",
            'spec.incidents: rollbackWhen names no monitor: "qualty", did',
        ),
        ("on: [freshness]", "on: [fresh]", 'spec.retrain: on[0] names no monitor: "fresh", did you mean "freshness"?'),
        (
            "  - {metric: log_loss, margin: 0.03}\n  - {metric: roc_auc, maxDrop: 0.01}\n",
            "",
            "spec.retrain: envelope: maxMetricDrop needs a gate with margin or maxDrop",
        ),
        ("source: {directory: .}", "source: {}", "spec.train.source: needs exactly one of directory and git"),
        ("name: flight-delay, w", "name: Flight Delay, w", "metadata: name must match"),
        ("  tier: 1", "  type: llm_app", "spec: type llm_app is not yet supported, use predictor"),
        ("tier: 1", "tier: 2", "promoteWithinMargin is for tiers 0 and 1, this model has tier 2"),
        ("kind: Model", "kind: Modell", 'kind must be one of Model, Dataset, Environment, got "Modell", did you mean'),
        ("steersman/v1", "steersman/v9", 'apiVersion must be steersman/v1, got "steersman/v9"'),
        ("  versions: {registry: mlflow, name: flight-delay}\n", "", "spec: versions is required"),
        (
            "      guardrails:",
            "      freeze: [{startsAt: 0001-01-01T00:00:00+09:00, endsAt: 2026-01-02, reason: x}]\n      guardrails:",
            "spec.environments.production.freeze[0]: startsAt must be a time such as 2026-03-01T00:00:00Z",
        ),
        *(
            (
                "      guardrails:",
                f"      freeze: [{{{freeze}, reason: x}}]\n      guardrails:",
                f"production.freeze[0]: {said}",
            )
            for freeze, said in (
                ("cron: 0 16 * * FRI", "needs either startsAt and endsAt, or cron and duration"),
                ("cron: 0 16 * *, duration: 1d", "cron: needs five fields (minute hour day month weekday), got 4"),
                ("cron: 0 25 * * FRI, duration: 1d", "cron: hour must lie within 0..23, in rising order, got '25'"),
                ("cron: 0 16 * * FRI, duration: 40d", "duration must be at most 31d; write startsAt and endsAt"),
                (
                    "cron: 0 1 * * *, duration: 1h, timeZone: Mars/Base",
                    "timeZone: no time zone 'Mars/Base' on this machine",
                ),
            )
        ),
        (
            "      guardrails:",
            "      after: stagin\n      guardrails:",
            "production: after names no environment of the model",
        ),
        (
            "    production:\n",
            "    staging: {}\n    production:\n      after: staging\n",
            "production: after staging and retrain.mode auto exclude each other",
        ),
        (
            "      guardrails:",
            "      after: production\n      guardrails:",
            "after goes in a circle: production → production",
        ),
        (
            "      guardrails:",
            "      approvals: {required: 1, roles: [approver, validator]}\n      guardrails:",
            "production.approvals: required must be at least the number of roles",
        ),
        (
            "      guardrails:",
            "      approvals: {roles: [admin]}\n      guardrails:",
            "production.approvals: roles[0] must be one of approver, validator, got",
        ),
        ("spec:\n", "status: {}\nspec:\n", "status is written by Steersman; take it out"),
    ],
)
def test_a_fault_is_named_at_its_path(was: str, becomes: str, said: str) -> None:
    assert was in MODEL
    found = problems(MODEL.replace(was, becomes))
    assert any(said in problem for problem in found), found


def test_the_document_without_faults_is_read() -> None:
    (model,) = parse_yaml(MODEL)
    assert model.metadata.name == "flight-delay"


def test_all_faults_are_listed_not_only_the_first() -> None:
    text = (
        MODEL.replace("tier: 1", "tier: 9").replace("stickyBy", "sticky").replace("setWeight: 10\n", "setWeight: -1\n")
    )
    assert len(problems(text)) == 3


def test_faults_of_several_documents_name_the_document() -> None:
    text = MODEL.replace("tier: 1", "tier: 9") + "---\n" + MODEL.replace("kind: Model", "kind: Modle")
    assert [problem.split(":")[0] for problem in problems(text)] == ["document 1", "document 2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "line 2, column 1: the key 'a' stands twice in one mapping"),
        ("a: &x 1\nb: *x\n", "aliases (*name) are not supported"),
        ("a: [1\n", "line 2, column 1"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("? [a, b]\n: 1\n", "a key must be text"),
        ("[" * 5000, "nested too deeply"),
        ("# only a comment\n", "holds no document"),
        ("- 1\n", "a document must be a mapping, got a list"),
        ("a: '\x07'\n", "not YAML"),
        ("x" * (FILE_BYTES_MAX + 1), "is larger than 1024 KiB"),
        ("--- {}\n" * 201, "at most 200"),
    ],
)
def test_what_is_not_a_plain_yaml_document_is_refused(text: str, said: str) -> None:
    assert any(said in problem for problem in problems(text)), problems(text)
