"""Whatever stands where a value should be, the answer is a list of problems, never another exception."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.client.documents import load_yaml
from steersman.domain.documents import KINDS, examine, parse_document

MODEL = """
apiVersion: steersman/v1
kind: Model
metadata: {name: flight-delay, workspace: ops, labels: {a: b}}
spec:
  versions: {registry: mlflow, name: flight-delay}
  groundTruth: {column: late, horizon: 1d}
  train: {source: {directory: .}, command: [python], data: {dataset: flights}, limits: {cpu: 10m}}
  holdout: {dataset: flights, last: 14d}
  gates: [{metric: log_loss, margin: 0.03}, {metric: roc_auc, floor: 0.6}, {policy: "version.format != 'pickle'"}]
  environments:
    production:
      strategy: {canary: {steps: [{mirror: {}}, {analysis: {metrics: [roc_auc]}}, {setWeight: 10}, {promote: {}}]}}
      guardrails: [{name: error-rate, limit: "<= 1%"}]
      approvals: {required: 1}
      freeze: [{startsAt: "2026-01-01T00:00:00Z", endsAt: "2026-01-02T00:00:00Z", reason: x}]
  monitors: [{name: quality, kind: performance, metric: log_loss}]
  retrain: {mode: register, on: [quality]}
"""

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1d", "Model", "0s"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a document."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


(DATA,) = load_yaml(MODEL)
PLACES = places(DATA)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES[1:]), anything)
def test_any_value_at_any_place_is_read_or_explained(place: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(DATA)
    holder = data
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    problems, document = examine(data)
    assert bool(problems) is (document is None)
    if document is not None:
        assert parse_document(document) == document


@settings(max_examples=100, deadline=None)
@given(anything, st.sampled_from(list(KINDS)))
def test_any_specification_is_read_or_explained(value: Any, kind: str) -> None:
    data = {"apiVersion": "steersman/v1", "kind": kind, "metadata": {"name": "x"}, "spec": value}
    problems, document = examine(data)
    assert bool(problems) is (document is None)
