"""Who can still call a version, how large and slow it is, what it says of itself; and that unknown is never a pass."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.gating import NO_PRODUCTION, GateResult, NotApplicable
from steersman.decide.inspecting import gate_documented, gate_latency, gate_schema, gate_size
from steersman.domain.spec import Compatibility
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Column, Format, Version

AT = datetime(2026, 1, 1, tzinfo=UTC)
X, Z = Column(name="x", type="FP64"), Column(name="z", type="FP64")


def version(*signature: Column, number: int = 1, output: str = "score", size: int = 10) -> Version:
    return Version(
        workspace="ops",
        model="delay",
        number=number,
        digest=f"sha256:{number:064d}",
        format=Format.LIGHTGBM,
        file="m",
        signature=signature,
        output=output,
        registered_at=AT,
        registered_by="ann",
        size_bytes=size,
    )


def verdict(result: GateResult) -> Verdict:
    assert isinstance(result.answer, Verdict)
    return result.answer


OPTIONAL = Column(name="gust", type="FP64", required=False)


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ((X,), "input z is gone"),
        ((X, Column(name="z", type="INT64")), "input z is INT64, was FP64"),
        ((X, Z, Column(name="gust", type="FP64")), "input gust (FP64) is new and required"),
        ((Z, X), "inputs have other places: z, x for x, z"),
        ((OPTIONAL, X, Z), "inputs have other places: gust, x, z for x, z"),
    ],
)
def test_what_breaks_a_caller_is_named_and_fails_even_where_additions_are_allowed(
    signature: tuple[Column, ...], said: str
) -> None:
    for mode in Compatibility:
        found = verdict(gate_schema(version(*signature, number=2), version(X, Z), compatibility=mode))
        assert found.outcome is Outcome.FAILED
        assert said in found.because


def test_an_optional_input_at_the_end_is_an_addition() -> None:
    candidate, production = version(X, Z, OPTIONAL, number=2), version(X, Z)
    allowed = verdict(gate_schema(candidate, production, compatibility=Compatibility.ADDITIVE))
    assert allowed.outcome is Outcome.SUCCESSFUL
    assert allowed.because == "callers of version 1 are answered as before; input gust (FP64) is new and optional"
    assert verdict(gate_schema(candidate, production, compatibility=Compatibility.SAME)).outcome is Outcome.FAILED


def test_an_input_may_become_optional_and_not_required() -> None:
    loose, strict = version(X, OPTIONAL), version(X, Column(name="gust", type="FP64"))
    additive = Compatibility.ADDITIVE
    assert verdict(gate_schema(loose, strict, compatibility=additive)).outcome is Outcome.SUCCESSFUL
    tightened = verdict(gate_schema(strict, loose, compatibility=additive))
    assert (tightened.outcome, "input gust has become required" in tightened.because) == (Outcome.FAILED, True)


def test_another_output_breaks_whoever_reads_it() -> None:
    found = verdict(gate_schema(version(X, output="p"), version(X), compatibility=Compatibility.ADDITIVE))
    assert "the output score is now p" in found.because


def test_the_first_version_has_no_callers_and_unknown_inputs_are_an_error() -> None:
    first = gate_schema(version(X), None, compatibility=Compatibility.SAME)
    assert first.answer == NotApplicable(because=NO_PRODUCTION)
    assert verdict(gate_schema(version(), version(X), compatibility=Compatibility.SAME)).outcome is Outcome.ERROR
    assert verdict(gate_schema(version(X), version(), compatibility=Compatibility.SAME)).outcome is Outcome.ERROR


def test_a_version_is_as_large_as_its_files() -> None:
    assert verdict(gate_size(version(X, size=2_000_000), max_size_mb=2)).outcome is Outcome.SUCCESSFUL
    over = verdict(gate_size(version(X, size=2_000_001), max_size_mb=2))
    assert over.outcome is Outcome.FAILED
    assert over.because == "2,000,001 bytes, 2 MB, at most 2 MB allowed"


# --- latency


def test_the_99th_percentile_of_few_predictions_has_no_upper_end() -> None:
    few = verdict(gate_latency(np.full(298, 1.0), max_latency_ms=5, percentile=99))
    assert (few.outcome, few.upper, few.needed) == (Outcome.INCONCLUSIVE, None, 1)
    enough = verdict(gate_latency(np.full(299, 1.0), max_latency_ms=5, percentile=99))
    assert enough.outcome is Outcome.SUCCESSFUL


def test_surely_slower_than_the_limit_fails_and_undecided_does_not_pass() -> None:
    slow = np.concatenate([np.full(400, 1.0), np.full(100, 50.0)])
    assert verdict(gate_latency(slow, max_latency_ms=10, percentile=95)).outcome is Outcome.FAILED
    edge = np.concatenate([np.full(475, 1.0), np.full(25, 50.0)])
    assert verdict(gate_latency(edge, max_latency_ms=10, percentile=95)).outcome is Outcome.INCONCLUSIVE


def test_nothing_timed_is_an_error() -> None:
    for measured in ([], [0.0, 1.0], [float("nan")]):
        assert verdict(gate_latency(measured, max_latency_ms=1, percentile=50)).outcome is Outcome.ERROR


def test_the_interval_covers_the_true_percentile_as_often_as_it_says() -> None:
    truth = -np.log(1 - 0.9)
    low = high = 0
    for seed in range(1000):
        found = verdict(
            gate_latency(np.random.default_rng(seed).exponential(size=200), max_latency_ms=9, percentile=90)
        )
        assert found.lower is not None
        assert found.upper is not None
        low += found.lower > truth
        high += found.upper < truth
    assert low <= 71, "5 % of 1,000 are 50; 71 is three standard deviations more"
    assert high <= 71


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=50), st.floats(0.1, 100), st.floats(0, 50))
def test_a_higher_limit_never_fails_what_a_lower_one_passes(times: list[float], limit: float, more: float) -> None:
    passed = verdict(gate_latency(times, max_latency_ms=limit, percentile=80)).outcome is Outcome.SUCCESSFUL
    wider = verdict(gate_latency(times, max_latency_ms=limit + more, percentile=80)).outcome
    assert wider is Outcome.SUCCESSFUL or not passed


# --- papers


def test_what_is_missing_is_named_and_all_of_it() -> None:
    texts = {"CARD.md": "# Card\n## Limits\n\n## Use\nFor the desk.\n", "MLmodel": "metadata: {owner: ann}"}
    passing = ["CARD.md", "CARD.md#use", "MLmodel:metadata.owner"]
    assert verdict(gate_documented(passing, texts)).outcome is Outcome.SUCCESSFUL
    found = verdict(gate_documented([*passing, "CARD.md#Limits", "CARD.md#Data", "MLmodel:metadata.risk", "X"], texts))
    assert found.outcome is Outcome.FAILED
    assert found.because == (
        "CARD.md says nothing below the heading 'Limits'; CARD.md has no heading 'Data'; "
        "MLmodel says nothing at metadata.risk; X is not among the version's files"
    )
