"""YAML, JSON and Python are three ways to write one document: equal structs, one digest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.client.documents import dump_yaml, load_yaml, parse_yaml, read_documents
from steersman.domain import spec
from steersman.domain.documents import Change, diff, digest, encode_document, parse_document
from steersman.domain.durations import format_duration, parse_duration
from steersman.domain.errors import BadDocument, NotFound
from steersman.domain.metrics import METRICS
from steersman.domain.policies import parse_policy
from steersman.domain.schema import json_schema
from steersman.stats import performance

CREDIT = spec.Model(
    metadata=spec.Metadata(name="credit", workspace="risk"),
    spec=spec.ModelSpec(
        tier=2,
        versions=spec.Versions(registry="directory", name="credit"),
        ground_truth=spec.GroundTruth(column="defaulted", horizon=timedelta(days=30)),
        environments={
            "production": spec.EnvironmentPolicy(
                strategy=spec.Canary(
                    steps=(
                        spec.Approval(count=2),
                        spec.SetWeight(weight_pct=5),
                        spec.Pause(duration=timedelta(hours=36)),
                        spec.SetWeight(weight_pct=100),
                        spec.Promote(),
                        spec.Bake(duration=timedelta(days=14)),
                    )
                ),
                guardrails=(
                    spec.Guardrail(
                        name=spec.GuardrailName.ERROR_RATE,
                        limit=spec.Limit(operator="<=", value=0.001, unit="fraction"),
                    ),
                ),
                freeze=(
                    spec.Freeze(
                        starts_at=datetime(2026, 12, 20, tzinfo=UTC),
                        ends_at=datetime(2027, 1, 3, tzinfo=UTC),
                        reason="holidays",
                    ),
                ),
            )
        },
    ),
)


def test_a_document_written_in_python_reads_back_from_its_own_yaml() -> None:
    assert parse_yaml(dump_yaml([CREDIT])) == [CREDIT]


def test_a_document_in_python_form_is_checked_like_yaml() -> None:
    broken = msgspec.structs.replace(CREDIT, spec=msgspec.structs.replace(CREDIT.spec, tier=9))
    with pytest.raises(BadDocument, match=r"spec: tier must be within 0\.\.3, got 9"):
        parse_document(broken)


def test_writing_out_a_default_does_not_change_the_digest() -> None:
    plain = encode_document(CREDIT, defaults=True)
    assert plain != encode_document(CREDIT)
    assert digest(parse_document(plain)) == digest(CREDIT)


def test_a_changed_value_changes_the_digest_and_shows_in_the_difference() -> None:
    other = msgspec.structs.replace(CREDIT, spec=msgspec.structs.replace(CREDIT.spec, tier=3))
    assert digest(other) != digest(CREDIT)
    assert diff(CREDIT, other) == (Change(path="spec.tier", before=2, after=3),)


def test_the_difference_to_nothing_is_the_whole_document() -> None:
    assert diff(CREDIT, CREDIT) == ()
    assert [change.path for change in diff(None, CREDIT)] == ["apiVersion", "kind", "metadata", "spec"]


def test_on_and_off_are_words_and_times_stay_text() -> None:
    text = "on: off\nyes: no\nt: 12:30:00\nd: 2026-03-01\noctal: 010\nn: 1\nf: 1e3\nb: true\nz: ~\n"
    (data,) = load_yaml(text)
    words = {"on": "off", "yes": "no", "t": "12:30:00", "d": "2026-03-01", "octal": "010"}
    assert data == {**words, "n": 1, "f": 1000.0, "b": True, "z": None}


@given(st.integers(min_value=0, max_value=3660 * 86_400_000 - 1))
def test_durations_survive_being_written(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("text", ["", "1", "d", "1w", "-1d", "1.5h", "1h1d", "9" * 60 + "s", "1d ", "٣d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|at most"):
        parse_duration(text)


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    text = (
        "apiVersion: steersman/v1\nkind: Dataset\nmetadata: {name: flights}\nspec: {uri: rows.parquet, timeColumn: t}\n"
    )
    (tmp_path / "dataset.yaml").write_text(text)
    (dataset,) = read_documents([tmp_path])
    assert isinstance(dataset, spec.Dataset)
    assert dataset.spec.uri == str(tmp_path / "rows.parquet")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nothing\.yaml does not exist"):
        read_documents([tmp_path / "nothing.yaml"])


def test_a_policy_is_true_false_or_unknown() -> None:
    policy = parse_policy("version.signature == production.signature")
    assert policy.holds({"signature": 1}, {"signature": 1}) is True
    assert policy.holds({"signature": 1}, {"signature": 2}) is False
    assert policy.holds({"signature": 1}, None) is None
    assert parse_policy("version.format != 'pickle'").holds({"format": "onnx"}, None) is True


def test_the_documents_know_the_metrics_that_are_computed() -> None:
    assert set(performance.METRICS) == set(METRICS)


@pytest.mark.parametrize("kind", ["Model", "Dataset", "Environment"])
def test_the_schema_describes_what_is_decoded(kind: str) -> None:
    schema = json_schema(kind)
    assert schema["required"] == ["apiVersion", "kind", "metadata", "spec"]
    assert all("description" in part for part in schema["$defs"].values())
    assert "PT" not in str(schema)


def test_a_declared_metric_may_be_named_where_versions_are_compared() -> None:
    text = """
apiVersion: steersman/v1
kind: Model
metadata: {name: pricing}
spec:
  versions: {registry: mlflow, name: pricing}
  groundTruth: {column: sold, horizon: 1d}
  metrics:
  - {name: lost_margin, expression: "CASE WHEN label = 1 THEN abs(score - price) ELSE 0 END", direction: lower}
  environments:
    production:
      strategy:
        canary:
          steps:
          - setWeight: 10
          - analysis: {metrics: [lost_margin, error_rate], mode: split, unit: row, rowsMin: 2000, slices: [region]}
          - setWeight: 100
          - promote: {}
"""
    (model,) = parse_yaml(text)
    assert isinstance(model, spec.Model)
    (declared,) = model.spec.metrics
    assert (declared.name, declared.direction) == ("lost_margin", "lower")
    assert parse_document(encode_document(model)) == model
