"""Distances against scipy, robustness where the usual libraries fail, and measured false-alarm rates."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.stats.drift import (
    EVIDENCE_MAX,
    Detector,
    blamed,
    calibrate,
    compare,
    conformal_p,
    e_value,
    jensen_shannon,
    ks,
    null_rate_change,
    psi,
    updated,
    wasserstein,
)
from steersman.stats.profiles import Profile, empty, profile_categorical, profile_counts, profile_numeric

whole_numbers = st.lists(st.integers(-1000, 1000), min_size=1, max_size=80)


@given(whole_numbers, whole_numbers)
def test_ks_of_whole_numbers_equals_scipys(first: list[int], second: list[int]) -> None:
    grid = np.arange(-1000, 1001)
    expected = np.max(np.abs(scipy.stats.ecdf(first).cdf.evaluate(grid) - scipy.stats.ecdf(second).cdf.evaluate(grid)))
    assert ks(profile_numeric(first), profile_numeric(second)) == pytest.approx(expected)


def test_ks_of_a_continuous_column_is_scipys_to_a_thousandth() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=20_000), rng.normal(0.1, 1, size=20_000)
    expected = scipy.stats.ks_2samp(first, second).statistic
    assert ks(profile_numeric(first), profile_numeric(second)) == pytest.approx(expected, abs=1e-3)


def test_wasserstein_is_scipys_in_interquartile_ranges() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 100, 3_000), rng.integers(10, 120, 3_000)
    scale = np.quantile(first, 0.75) - np.quantile(first, 0.25)
    expected = scipy.stats.wasserstein_distance(first, second) / scale
    assert wasserstein(profile_numeric(first), profile_numeric(second)) == pytest.approx(expected, rel=0.03)


def test_jensen_shannon_of_frequent_categories_equals_scipys() -> None:
    first, second = {"a": 50, "b": 30, "c": 20}, {"a": 10, "b": 60, "c": 30}
    expected = scipy.spatial.distance.jensenshannon(list(first.values()), list(second.values()), base=2)
    assert jensen_shannon(profile_counts(first), profile_counts(second)) == pytest.approx(expected)


@given(whole_numbers, whole_numbers)
def test_distances_of_numbers_are_none_for_equal_profiles_and_never_negative(a: list[int], b: list[int]) -> None:
    first, second = profile_numeric(a), profile_numeric(b)
    for distance in (ks, psi, wasserstein):
        assert distance(first, first) == pytest.approx(0.0)
        assert distance(first, second) >= -1e-12
    assert ks(first, second) == pytest.approx(ks(second, first))


def test_one_outlier_in_the_reference_blinds_nothing() -> None:
    """Equal-width bins and standard deviations miss a shift of a whole deviation after one row of 1e6."""
    rng = np.random.default_rng(3)
    quiet, shifted = rng.normal(size=20_000), profile_numeric(rng.normal(1, 1, size=20_000))
    clean, spoiled = profile_numeric(quiet), profile_numeric([*quiet[1:], 1e6])
    for distance in (ks, psi, wasserstein):
        assert distance(spoiled, shifted) == pytest.approx(distance(clean, shifted), rel=0.02)


def test_a_column_of_many_rare_categories_is_not_drift_by_itself() -> None:
    rng = np.random.default_rng(4)
    reference, current = (profile_categorical([f"z{i}" for i in rng.integers(0, 500, n)]) for n in (5_000, 1_000))
    assert jensen_shannon(reference, current) < 0.05


def test_a_category_unknown_to_the_reference_counts() -> None:
    reference, current = profile_counts({"a": 500, "b": 500}), profile_counts({"a": 500, "new": 500})
    assert jensen_shannon(reference, current) > 0.5


def test_more_nulls_are_a_change_even_where_the_values_are_the_same() -> None:
    reference, current = profile_numeric([1.0] * 100), profile_numeric([1.0] * 60 + [math.nan] * 40)
    assert null_rate_change(reference, current) == pytest.approx(0.4)
    assert compare(reference, current).score == pytest.approx(0.4)
    assert compare(reference, profile_numeric([math.nan] * 100)).score == pytest.approx(1.0)


def test_a_column_that_was_constant_can_still_be_compared() -> None:
    distances = compare(profile_numeric([5.0] * 100), profile_numeric([6.0] * 100))
    assert distances.ks == 1.0
    assert distances.wasserstein == pytest.approx(0.2)


def test_without_rows_there_is_no_distance() -> None:
    for kind in ("numeric", "categorical"):
        assert math.isnan(compare(empty(kind), empty(kind)).score)


def test_a_changed_type_is_a_schema_change_and_no_drift() -> None:
    with pytest.raises(ValueError, match="schema change"):
        compare(profile_numeric([1.0]), profile_categorical(["a"]))
    with pytest.raises(ValueError, match="numeric profiles"):
        ks(profile_categorical(["a"]), profile_categorical(["a"]))
    with pytest.raises(ValueError, match="categorical profiles"):
        jensen_shannon(profile_numeric([1.0]), profile_numeric([1.0]))


def days(count: int, *, seed: int, shift: float = 0.0, rows: int = 300) -> list[Profile]:
    """Daily windows whose level itself wanders by half a deviation: rows of a day are alike."""
    rng = np.random.default_rng(seed)
    return [profile_numeric(rng.normal(rng.normal(scale=0.5) + shift, 1, rows)) for _ in range(count)]


def test_days_that_merely_differ_as_days_do_are_not_surprising() -> None:
    calibration = calibrate(days(42, seed=5))
    p_values = [calibration.p_value(compare(calibration.reference, day).score) for day in days(100, seed=6)]
    assert sum(p <= 0.05 for p in p_values) <= 12
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.12)


def test_the_limit_is_the_score_one_quiet_window_in_twenty_exceeds() -> None:
    calibration = calibrate(days(39, seed=7))
    assert calibration.limit(0.05) == calibration.scores[37]
    assert calibration.p_value(calibration.limit(0.05) + 1e-9) == pytest.approx(2 / 40)
    assert calibration.limit(0.001) == math.inf


def test_too_few_reference_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="9 reference windows of at least 50 rows, need 10"):
        calibrate([*days(9, seed=8), *days(5, seed=9, rows=20)])


@given(st.lists(st.floats(0, 1), max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_score_is_never_less_surprising(reference: list[float], a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    assert 1 / (len(reference) + 1) <= conformal_p(high, reference) <= conformal_p(low, reference) <= 1


def test_a_score_that_could_not_be_measured_has_no_p_value() -> None:
    with pytest.raises(ValueError, match="could not be measured"):
        conformal_p(math.nan, [0.1])
    with pytest.raises(ValueError, match="p-value"):
        e_value(0.0)


@given(st.integers(1, 400))
def test_the_bet_on_a_rank_is_fair_at_best(windows: int) -> None:
    """Under no change the rank of a new window is uniform, so the mean of its e-value must not exceed one."""
    ranks = (np.arange(windows + 1) + 1) / (windows + 1)
    assert np.mean([e_value(float(p)) for p in ranks]) <= 1.0


def test_quiet_windows_rarely_alarm_whatever_the_dependence_between_columns() -> None:
    """Reference 30 windows, ten correlated columns, 200 windows, one false alarm in 365 wished: 42 % would be allowed."""
    rng = np.random.default_rng(10)
    alarms = 0
    for _ in range(40):
        scores = 0.7 * rng.normal(size=(230, 1)) + 0.7 * rng.normal(size=(230, 10))
        reference = np.sort(scores[:30], axis=0)
        detector = Detector()
        for window in scores[30:]:
            detector = updated(detector, {f"c{j}": conformal_p(x, reference[:, j]) for j, x in enumerate(window)})
            if detector.alarms(365):
                alarms += 1
                break
    assert alarms <= 6


def test_a_lasting_change_of_two_columns_in_ten_is_found_within_two_weeks_and_dated() -> None:
    rng = np.random.default_rng(11)
    delays, onsets = [], []
    for _ in range(20):
        scores = rng.normal(size=(142, 10))
        scores[62:, :2] += 3.0
        reference = np.sort(scores[:42], axis=0)
        detector = Detector()
        for number, window in enumerate(scores[42:]):
            detector = updated(detector, {f"c{j}": conformal_p(x, reference[:, j]) for j, x in enumerate(window)})
            if detector.alarms(365):
                delays.append(number - 20 + 1)
                onsets.append(number + 1 - detector.onset())
                assert set(detector.leading(1)) <= {"c0", "c1"}
                break
    assert len(delays) == 20
    assert np.median(delays) <= 14
    assert abs(np.median(onsets) - 20) <= 3


def test_evidence_grows_with_strange_windows_fades_with_quiet_ones_and_is_bounded() -> None:
    detector = Detector()
    assert (detector.level, detector.onset(), detector.leading()) == (0.0, 0, ())
    for _ in range(30):
        detector = updated(detector, {"a": 0.01, "b": 1.0})
    assert detector.evidence["a"] == EVIDENCE_MAX
    assert detector.level == pytest.approx(EVIDENCE_MAX / 2, rel=1e-3)
    assert (detector.windows, detector.leading(), detector.onset()) == (30, ("a",), 30)
    loud = detector.level
    for _ in range(20):
        detector = updated(detector, {"a": 1.0, "b": 1.0})
    assert detector.level < 1.0 < loud
    assert detector.onset() == 0


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1), min_size=1))
def test_a_window_without_a_column_leaves_its_evidence_alone(p_values: dict[str, float]) -> None:
    before = updated(Detector(), {"z": 0.02})
    after = updated(before, p_values)
    assert after.evidence["z"] == before.evidence["z"]
    assert after.windows == 2


def test_blame_goes_to_columns_with_evidence_only() -> None:
    assert blamed({"a": 500.0, "b": 90.0, "c": 1.0, "d": 0.2}) == ("a", "b")
    assert blamed({"a": 19.0}) == ()
    assert blamed({}) == ()
