"""How different two profiles are, and how surprising that is.

A distance by itself says nothing: fixed limits (PSI > 0.1) alarm on a third of quiet windows with few rows and never on
real change with many. Two things are wanted of an alarm, a stated rate of false ones and little delay, and they come in
three steps, none of which assumes that rows are independent:

1. **Distances** that no outlier and no rare category can blind: ranks, bins at the reference's quantiles, a robust scale,
   rare categories pooled.
2. **Calibration on reference windows.** Days differ from each other even when nothing is wrong. Each reference window is
   compared with all the others; a new window's distance is ranked among those. The rank is a conformal p-value: if the
   new window is one more of the same kind, it is uniform (Vovk, Gammerman & Shafer).
3. **Sequential evidence.** P-values are turned into e-values, multiplied up as long as they speak for change, restarted
   when they do not (e-CUSUM; Shin, Ramdas & Rinaldo, *E-detectors*, 2023). Averaged over all columns of a monitor, the
   evidence crosses a limit c at most once in c windows on average while nothing changes, whatever the dependence
   between columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steersman.stats.profiles import Counts, Profile, merge, quantile, representatives

QUANTILE_BINS = 10
"""Bins of the PSI: the customary deciles, taken at the reference's own quantiles."""

RARE_SHARE = 0.005
"""Categories rarer than this in the reference are pooled: unpooled, 500 equal categories alarmed in every window of
1,000 rows."""

RARE_COUNT = 5
"""Fewest rows of a reference category that is not pooled, as in the usual rule for chi-square tests."""

WINDOW_ROWS_MIN = 50
"""Fewest rows of a window that is compared: below it the distance measures the window's size."""

REFERENCE_WINDOWS_MIN = 10
"""Fewest reference windows a calibration may rest on: p-values then go down to 1/11."""


EVIDENCE_MAX = 1e6
"""Most evidence one column keeps. It lets one of 500 columns alarm alone at 2,000 windows between false alarms; more would
only keep an alarm alive after its cause is gone (quiet windows take away a third each)."""


def ks(reference: Profile, current: Profile) -> float:
    """Kolmogorov-Smirnov distance of the values (nulls left out), exact to the bins; NaN where one side has none."""
    _, first, second = _aligned(reference, current)
    if not first.sum() or not second.sum():
        return math.nan
    gap = np.cumsum(first) / first.sum() - np.cumsum(second) / second.sum()
    return float(np.max(np.abs(gap)))


def psi(reference: Profile, current: Profile) -> float:
    """Population stability index on bins at the reference's deciles; half a row is added to each bin against infinity."""
    keys, first, second = _aligned(reference, current)
    if not first.sum() or not second.sum():
        return math.nan
    reached = np.cumsum(first) / first.sum()
    cuts = np.unique(np.searchsorted(reached, np.arange(1, QUANTILE_BINS) / QUANTILE_BINS, side="left"))
    bins = np.searchsorted(cuts, np.arange(keys.size), side="left")
    return _psi_of(np.bincount(bins, weights=first), np.bincount(bins, weights=second, minlength=int(bins.max()) + 1))


def jensen_shannon(reference: Profile, current: Profile) -> float:
    """Jensen-Shannon distance (root of the divergence in bits, 0..1) of categories, rare ones pooled.

    Categories that are rare in the reference, unknown to it, or beyond either profile's list count as one.
    """
    first, second = _pooled(reference, current)
    if not first.sum() or not second.sum():
        return math.nan
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0.0) + np.where(q > 0, q * np.log2(q / middle), 0.0)
    return math.sqrt(max(float(parts.sum()) / 2.0, 0.0))


def wasserstein(reference: Profile, current: Profile) -> float:
    """Earth mover's distance in interquartile ranges of the reference; one outlier cannot blow it up.

    Values are clipped three interquartile ranges outside of the reference's 1 % and 99 % quantiles.
    """
    keys, first, second = _aligned(reference, current)
    if not first.sum() or not second.sum():
        return math.nan
    scale = quantile(reference, 0.75) - quantile(reference, 0.25)
    low, high = quantile(reference, 0.01), quantile(reference, 0.99)
    if scale <= 0.0:
        scale = high - low
    if scale <= 0.0:
        scale = max(abs(high), 1.0)  # a constant reference: measure in its own size
    values = np.clip(representatives(keys), low - 3.0 * scale, high + 3.0 * scale)
    gap = np.abs(np.cumsum(first) / first.sum() - np.cumsum(second) / second.sum())
    return float(np.sum(gap[:-1] * np.diff(values)) / scale)


def null_rate_change(reference: Profile, current: Profile) -> float:
    """Share of nulls now minus then; NaN where one side has no rows."""
    return current.null_rate - reference.null_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """All distances of one column between two profiles; those of the other kind are None."""

    ks: float | None = None
    psi: float | None = None
    wasserstein: float | None = None
    jensen_shannon: float | None = None
    null_rate_change: float

    @property
    def score(self) -> float:
        """The one number the calibration ranks: a change of shape or of nulls, whichever is larger, within 0..1."""
        shape = self.ks if self.ks is not None else self.jensen_shannon
        shapes = [value for value in (shape, abs(self.null_rate_change)) if value is not None and not math.isnan(value)]
        return max(shapes, default=math.nan)


def compare(reference: Profile, current: Profile) -> Distances:
    """All distances of one column. Raises ValueError where the kinds differ: that is a schema change, not drift."""
    if reference.kind != current.kind:
        raise ValueError(f"the column was {reference.kind} and is {current.kind}: a schema change, not drift")
    nulls = null_rate_change(reference, current)
    if reference.kind == "categorical":
        return Distances(jensen_shannon=jensen_shannon(reference, current), null_rate_change=nulls)
    return Distances(
        ks=ks(reference, current),
        psi=psi(reference, current),
        wasserstein=wasserstein(reference, current),
        null_rate_change=nulls,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is usual: the reference as a whole and how far its single windows lie from the rest of it."""

    reference: Profile
    scores: tuple[float, ...]  # one a reference window, ascending

    def p_value(self, score: float) -> float:
        """Share of windows at least that far, the new one counted: conformal, at least 1 / (windows + 1)."""
        return conformal_p(score, self.scores)

    def limit(self, alpha: float) -> float:
        """The score that a quiet window exceeds with probability at most alpha; infinite for too few windows."""
        place = math.ceil((1.0 - alpha) * (len(self.scores) + 1))
        return self.scores[place - 1] if place <= len(self.scores) else math.inf


def calibrate(windows: Sequence[Profile]) -> Calibration:
    """Leave-one-out calibration of one column on its reference windows, those with too few rows left out.

    Raises ValueError for fewer than `REFERENCE_WINDOWS_MIN` usable windows. Costs one merge and one comparison a window.
    """
    usable = [window for window in windows if window.n >= WINDOW_ROWS_MIN]
    if len(usable) < REFERENCE_WINDOWS_MIN:
        raise ValueError(
            f"{len(usable)} reference windows of at least {WINDOW_ROWS_MIN} rows, need {REFERENCE_WINDOWS_MIN}"
        )
    scores = [
        compare(merge([*usable[:index], *usable[index + 1 :]]), window).score for index, window in enumerate(usable)
    ]
    return Calibration(reference=merge(usable), scores=tuple(sorted(scores)))


def conformal_p(score: float, reference_scores: Sequence[float]) -> float:
    """Rank p-value of a score among reference scores; larger is stranger, ties count against strangeness."""
    if math.isnan(score):
        raise ValueError("a score that could not be measured has no p-value")
    at_least = sum(1 for known in reference_scores if known >= score)
    return (1 + at_least) / (len(reference_scores) + 1)


def e_value(p: float) -> float:
    """A bet against p being uniform: mean at most 1 if it is, large for small p.

    The mean of the calibrators k p^(k−1) for k = 1/4 and 1/2 (Vovk & Wang 2021, *E-values: calibration, combination,
    and applications*): the first pays for single strong windows, the second for many slightly strange ones.
    """
    if not 0.0 < p <= 1.0:
        raise ValueError(f"a p-value lies within 0..1 and above 0, got {p}")
    return 0.5 * (0.25 * math.pow(p, -0.75) + 0.5 * math.pow(p, -0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """Running evidence of change over windows, for the columns of one monitor. Starts empty.

    `evidence` is each column's e-CUSUM, `since` how many windows ago each one's present run of evidence began.
    """

    windows: int = 0
    evidence: dict[str, float] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)

    @property
    def level(self) -> float:
        """The monitor's evidence: the mean over its columns. On average c windows pass until it falsely exceeds c."""
        return sum(self.evidence.values()) / len(self.evidence) if self.evidence else 0.0

    def alarms(self, windows_between_false_alarms: float) -> bool:
        """Whether the evidence exceeds the limit for the wished average distance of false alarms, in windows."""
        return self.level >= windows_between_false_alarms

    def leading(self, count: int = 5) -> tuple[str, ...]:
        """The columns that contribute most, strongest first, names break ties."""
        ranked = sorted(self.evidence.items(), key=lambda pair: (-pair[1], pair[0]))
        return tuple(name for name, value in ranked[:count] if value > 1.0)

    def onset(self) -> int:
        """How many windows ago the leading column's run of evidence began, the newest window counted; 0 without one."""
        leading = self.leading(1)
        return self.since[leading[0]] if leading else 0


def updated(detector: Detector, p_values: Mapping[str, float]) -> Detector:
    """The detector after one more window. A column without a p-value keeps its evidence; new ones start at nothing.

    Evidence is kept at most at `EVIDENCE_MAX`, so that a long alarm ends in reasonable time once its cause is gone.
    """
    evidence, since = dict(detector.evidence), dict(detector.since)
    for name, p in p_values.items():
        before = evidence.get(name, 0.0)
        carried = before > 1.0
        evidence[name] = min(max(before, 1.0) * e_value(p), EVIDENCE_MAX)
        since[name] = since.get(name, 0) + 1 if carried else 1
    return Detector(windows=detector.windows + 1, evidence=evidence, since=since)


def blamed(e_values: Mapping[str, float], alpha: float = 0.05) -> tuple[str, ...]:
    """Columns to name as changed, at most a share alpha of them wrongly on average (e-BH; Wang & Ramdas 2022)."""
    ranked = sorted(e_values.items(), key=lambda pair: (-pair[1], pair[0]))
    count = max((k for k, (_, value) in enumerate(ranked, 1) if value >= len(ranked) / (alpha * k)), default=0)
    return tuple(name for name, _ in ranked[:count])


def _aligned(reference: Profile, current: Profile) -> tuple[NDArray[np.uint32], Counts, Counts]:
    """Both histograms over the union of their bins."""
    for profile in (reference, current):
        if profile.kind != "numeric":
            raise ValueError(f"a distance of numbers needs numeric profiles, got {profile.kind}")
    keys = np.union1d(reference.keys, current.keys)
    sides = []
    for profile in (reference, current):
        counts = np.zeros(keys.size, dtype=np.int64)
        counts[np.searchsorted(keys, profile.keys)] = profile.counts
        sides.append(counts)
    return keys, sides[0], sides[1]


def _pooled(reference: Profile, current: Profile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    for profile in (reference, current):
        if profile.kind != "categorical":
            raise ValueError(f"a distance of categories needs categorical profiles, got {profile.kind}")
    enough = max(RARE_COUNT, RARE_SHARE * reference.values)
    common = [name for name, count in reference.categories if count >= enough]
    sides = []
    for profile in (reference, current):
        counts = dict(profile.categories)
        named = [float(counts.get(name, 0)) for name in common]
        sides.append(np.asarray([*named, profile.values - sum(named)], dtype=np.float64))
    return sides[0], sides[1]


def _psi_of(first: NDArray[Any], second: NDArray[Any]) -> float:
    p = (first + 0.5) / (first.sum() + 0.5 * first.size)
    q = (second + 0.5) / (second.sum() + 0.5 * second.size)
    return float(np.sum((q - p) * np.log(q / p)))
