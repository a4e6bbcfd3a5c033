"""Profiles add up exactly, keep their promises on accuracy, and survive a trip through bytes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.stats import profiles
from steersman.stats.profiles import (
    CATEGORIES_MAX,
    Profile,
    empty,
    from_bytes,
    merge,
    profile_categorical,
    profile_counts,
    profile_numeric,
    quantile,
    representatives,
    to_bytes,
)

numbers = st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-2000, 2000)), max_size=60)
names = st.lists(st.one_of(st.none(), st.sampled_from(["JFK", "LGA", "EWR", "Zürich", ""])), max_size=60)


@given(numbers, numbers)
def test_profiles_of_two_windows_add_up_to_the_profile_of_both(first: list[float], second: list[float]) -> None:
    merged, whole = merge([profile_numeric(first), profile_numeric(second)]), profile_numeric([*first, *second])
    assert (merged.n, merged.nulls, merged.minimum, merged.maximum) == (
        whole.n,
        whole.nulls,
        whole.minimum,
        whole.maximum,
    )
    assert merged.keys.tolist() == whole.keys.tolist()
    assert merged.counts.tolist() == whole.counts.tolist()
    assert merged.total == pytest.approx(
        whole.total, rel=1e-6, abs=1e-6 * abs(max(first + second, key=_size, default=0))
    )


@given(names, names, names)
def test_merging_categories_in_any_order_gives_the_same_bytes(a: list, b: list, c: list) -> None:
    parts = [profile_categorical(part) for part in (a, b, c)]
    assert to_bytes(merge(parts)) == to_bytes(merge(parts[::-1])) == to_bytes(profile_categorical([*a, *b, *c]))


@given(st.lists(numbers.map(profile_numeric), min_size=1, max_size=4))
def test_merging_numbers_in_any_order_gives_the_same_bytes(parts: list[Profile]) -> None:
    assert merge(parts) == merge(parts[::-1])
    assert merge([*parts, empty("numeric")]) == merge(parts)


@given(st.one_of(numbers.map(profile_numeric), names.map(profile_categorical)))
def test_bytes_bring_the_same_profile_back(profile: Profile) -> None:
    back = from_bytes(to_bytes(profile))
    assert back == profile
    assert hash(back) == hash(profile)
    assert to_bytes(back) == to_bytes(profile)


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=50))
def test_bins_sort_as_values_do(values: list[float]) -> None:
    keys = profiles._keys_of(np.clip(np.array(sorted(values)), -3e38, 3e38))
    assert np.all(np.diff(keys.astype(np.int64)) >= 0)


@given(st.floats(1e-30, 1e30), st.sampled_from([1, -1]))
def test_a_bin_is_at_most_a_fifth_of_a_percent_wide(size: float, sign: int) -> None:
    value = representatives(profile_numeric([sign * size]).keys)[0]
    assert value == pytest.approx(sign * size, rel=2**-9 * 1.01)
    assert abs(value) <= size * (1 + 1e-7)


@given(st.integers(-1024, 1024))
def test_small_whole_numbers_are_exact(value: int) -> None:
    assert representatives(profile_numeric([value]).keys)[0] == value


def test_many_rows_are_counted_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).lognormal(size=5_000)
    sorted_way = profile_numeric(values)
    monkeypatch.setattr(profiles, "BINCOUNT_FROM", 1)
    assert profile_numeric(values) == sorted_way


def test_moments_nulls_and_quantiles_are_those_of_the_data() -> None:
    values = np.random.default_rng(2).normal(5, 2, 20_000)
    profile = profile_numeric([*values, math.nan, math.nan])
    assert (profile.n, profile.nulls, profile.values) == (20_002, 2, 20_000)
    assert profile.null_rate == pytest.approx(2 / 20_002)
    assert profile.mean == pytest.approx(values.mean())
    assert profile.bin_mass_max < 0.01
    for share in (0.01, 0.5, 0.99):
        assert quantile(profile, share) == pytest.approx(np.quantile(values, share), rel=0.01)


def test_one_number_of_a_million_costs_one_bin() -> None:
    values = np.random.default_rng(3).normal(size=1_000)
    assert profile_numeric([*values, 1e6]).keys.size == profile_numeric(values).keys.size + 1


def test_without_values_there_is_no_mean() -> None:
    for profile in (empty("numeric"), profile_numeric([math.nan])):
        assert math.isnan(profile.mean)
        assert math.isnan(quantile(profile, 0.5))
        assert profile.minimum is None
    assert math.isnan(empty("categorical").null_rate)


def test_rare_names_beyond_the_limit_are_counted_together() -> None:
    profile = profile_counts({f"zip{i:04d}": 1 + (i < 10) for i in range(1_000)}, nulls=3)
    assert len(profile.categories) == CATEGORIES_MAX
    assert profile.categories[0] == ("zip0000", 2)
    assert profile.other == 1_010 - 20 - (CATEGORIES_MAX - 10)
    assert profile.n == 1_013


def test_a_days_window_takes_a_few_kilobytes() -> None:
    assert len(to_bytes(profile_numeric(np.random.default_rng(4).normal(size=900)))) < 4_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too short"),
        (b"x" * 40, "not a profile"),
        (b"SSPR\x02" + b"\0" * 20, "format 2, this Steersman reads 1"),
        (b"SSPR\x01\xff\xff\xff\xff" + b"\0" * 20, "longer than"),
        (to_bytes(profile_numeric([1.0]))[:-4], "damaged"),
        (b"SSPR\x01\x10\0\0\0" + b"\0" * 20, "damaged"),
    ],
)
def test_bytes_that_are_no_profile_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_bytes(data)


def test_numbers_and_names_do_not_mix() -> None:
    with pytest.raises(ValueError, match="changed its type"):
        merge([profile_numeric([1.0]), profile_categorical(["a"])])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])
    with pytest.raises(ValueError, match="negative"):
        profile_counts({"a": -1})
    with pytest.raises(ValueError, match="share"):
        quantile(empty("numeric"), 2)


def _size(value: float) -> float:
    return abs(value) if math.isfinite(value) else 3.5e38 if math.isinf(value) else 0.0
