"""What is understood and not carried out is refused where it stands, with what to use instead; and is on the page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from steersman.client.documents import parse_yaml
from steersman.domain import refusals
from steersman.domain.errors import BadDocument

MODEL = """
apiVersion: steersman/v1
kind: Model
metadata: {name: flight-delay}
spec:
  versions: {registry: mlflow, name: flight-delay}
  serving: {replicas: 2, stickyBy: tail_number}
  groundTruth: {column: late, horizon: 1d}
  train: {source: {directory: .}, command: [python, train.py], data: {dataset: flights}}
  holdout: {dataset: flights, last: 14d}
  gates:
  - {metric: log_loss, vs: production, block: 1d, margin: 0.03}
  - {metric: roc_auc, vs: production, maxDrop: 0.01}
  environments:
    staging: {}
    production:
      approvals: {required: 1, roles: [approver]}
      strategy:
        canary:
          steps:
          - mirror: {percent: 100}
          - analysis: {metrics: [roc_auc], mode: paired, maxDuration: 14d}
          - approval: {count: 1}
          - setWeight: 10
          - promote: {}
  monitors:
  - {name: inputs, kind: drift, window: 1d}
  - {name: quality, kind: performance, metric: log_loss, window: 1d}
  - {name: freshness, kind: challenger, metric: roc_auc}
  retrain: {mode: register, on: [quality]}
"""

STEPS = "spec.environments.production.strategy.canary.steps"

SAID = [
    ("Serving.capture", "replicas: 2", "capture: off", "spec.serving: capture off is not carried out yet; every"),
    ("GroundTruth.key", "horizon: 1d", "key: flight_id, horizon: 1d", 'spec.groundTruth: key "flight_id" is not carr'),
    ("Source.git", "directory: .", f"git: https://x, commit: {'a' * 40}", "spec.train.source: git is not carried out"),
    ("TrainData.until", "dataset: flights}}", "dataset: flights, until: 2026-01-01}}", 'spec.train.data: until "2026'),
    ("PairedGate.vs", "vs: production, block", "vs: staging, block", 'spec.gates[0]: vs "staging" is not carried out'),
    ("DropGate.vs", "vs: production, maxDrop", "vs: staging, maxDrop", 'spec.gates[1]: vs "staging" is not carried'),
    ("PairedGate.block", "block: 1d, margin", "block: 7d, margin", "spec.gates[0]: block 7d of a gate is not carried"),
    ("Mirror.maxDuration", "percent: 100", "maxDuration: 7d", f"{STEPS}[0].mirror: maxDuration of a mirror is not"),
    ("DriftMonitor.segments", "drift, window: 1d", "drift, segments: [a]", "spec.monitors[0]: segments is not carried"),
    (
        "PerformanceMonitor.segments",
        "log_loss, window",
        "log_loss, segments: [a], window",
        "spec.monitors[1]: segments",
    ),
    (
        "PerformanceMonitor.window",
        "log_loss, window: 1d",
        "log_loss, window: 7d",
        "spec.monitors[1]: a window of another",
    ),
    (
        "DriftMonitor.window",
        "drift, window: 1d",
        "drift, window: 7d",
        "the other monitors' is not carried out yet; write 7d",
    ),
    ("ChallengerMonitor", "performance, metric", "challenger, metric", "spec.monitors[2]: a second challenger is not"),
    ("Retrain.mode", "mode: register", "mode: propose", "spec.retrain: mode propose is not carried out yet; use regis"),
]


def problems(text: str) -> list[str]:
    with pytest.raises(BadDocument) as caught:
        parse_yaml(text)
    return [str(problem) for problem in caught.value.problems]


def test_the_document_that_asks_for_none_of_it_is_read() -> None:
    assert len(parse_yaml(MODEL)) == 1


@pytest.mark.parametrize(("was", "becomes", "said"), [row[1:] for row in SAID], ids=[row[0] for row in SAID])
def test_it_is_refused_at_its_path_with_what_to_use_instead(was: str, becomes: str, said: str) -> None:
    assert MODEL.count(was) == 1
    found = problems(MODEL.replace(was, becomes))
    assert any(said in problem for problem in found), found


def test_labels_may_join_on_the_column_that_decides_the_variant() -> None:
    assert len(parse_yaml(MODEL.replace("horizon: 1d", "key: tail_number, horizon: 1d"))) == 1


def test_an_environment_runs_where_versions_can_run() -> None:
    text = "{apiVersion: steersman/v1, kind: Environment, metadata: {name: production}, spec: {target: ray}}"
    assert problems(text) == ['spec: target "ray" is not carried out yet; use local']


def test_the_page_lists_them_all_and_nothing_else() -> None:
    text = (Path(__file__).parents[3] / "docs" / "documents.md").read_text()
    section = text.split("## Refused in this version")[1].split("\n## ")[0]
    first_cells = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    listed = {name for cell in re.findall(r"`([\w.]+)`", first_cells) for name in [cell]}
    assert listed == {row[0] for row in SAID} | {"EnvironmentSpec.target"}


def test_every_rule_is_tried_here() -> None:
    rules = inspect.getsource(refusals).count("yield _refused(")
    merged = len(
        [row for row in SAID if row[0] in ("DropGate.vs", "PerformanceMonitor.segments", "DriftMonitor.window")]
    )
    assert rules == len(SAID) - merged + 1
