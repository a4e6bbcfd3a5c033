"""What a release will probably go through: how long until a verdict, and how often the verdict is the right one.

`steersman plan` asks before anybody opens a release. The answer is simulated with the very sequences that will judge
(`stats.power`), from what is known today: how far the harm of one block lies from that of the next (`Spread`), and how
many labelled requests a block has (`Traffic`). Every number comes with its unit, its n and an interval; where nothing is
known, the answer is None and says why, because an invented number is worse than none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import NormalDist

from steersman.domain.metrics import HARM_RANGES
from steersman.domain.spec import EvidenceUnit
from steersman.stats.beta import student_quantile
from steersman.stats.performance import BLOCK_ROWS_MIN
from steersman.stats.power import Forecast, forecast

RUNS = 2_000
"""Simulated releases behind every chance: its interval is then at most 4.5 points wide."""

SPREAD_CONFIDENCE = 0.9
"""How sure the interval of a spread is; the chances are told for both of its ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Standard deviation of harm between blocks, or of single requests' harms, in the metric's own unit.

    `n` are the blocks (or requests) it was measured on, `freedom` its degrees of freedom, `source` where they come from.
    """

    sd: float
    n: int
    freedom: int
    source: str

    @property
    def between(self) -> tuple[float, float]:
        """Where the true spread lies with `SPREAD_CONFIDENCE`, for normal harms: chi-square by Wilson & Hilferty (1931)."""
        tail = NormalDist().inv_cdf((1.0 + SPREAD_CONFIDENCE) / 2.0)
        low, high = (_chi_square(self.freedom, z) for z in (-tail, tail))
        return self.sd * math.sqrt(self.freedom / high), self.sd * math.sqrt(self.freedom / max(low, 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests of one block as last measured over `windows` closed windows, and the share of them that got a label, over
    `windows_matured` of those. None where no window was measured."""

    rows_per_block: float | None
    windows: int
    coverage: float | None
    windows_matured: int

    @property
    def labelled_per_block(self) -> float | None:
        if self.rows_per_block is None or self.coverage is None:
            return None
        return self.rows_per_block * self.coverage


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an analysis or a bake asks for in one metric. `alpha` is what one of its bounds may be wrong with: the step's,
    shared by its metrics and their `parts` (all requests, and each slice). `copied`: the share of requests in it."""

    step: str
    metric: str
    margin: float
    alpha: float
    unit: EvidenceUnit
    block: timedelta
    blocks_min: int
    rows_min: int
    lasts: timedelta
    parts: int = 1
    needs_labels: bool = True
    copied: float = 1.0

    @property
    def blocks_max(self) -> int:
        return max(int(self.lasts / self.block), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """A probability with the interval that follows from what is not known of the spread and from the simulation."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The forecast for one metric of one step.

    `needed` is the least evidence any verdict may rest on, in `unit`. `decided_after` is when half of the harmless
    candidates have their verdict, from the beginning of the step, labels included, `decided_between` the same for the
    ends of the spread's interval; None: more than half stay undecided to the end. `unknown` says why there is no forecast.
    """

    step: str
    metric: str
    margin: float
    alpha: float
    parts: int
    unit: str
    needed: int
    block: timedelta
    blocks_max: int
    labelled_per_block: float | None
    spread: Spread | None = None
    decided_after: timedelta | None = None
    decided_between: tuple[timedelta | None, timedelta | None] = (None, None)
    promoted_harmless: Chance | None = None
    caught_harmful: Chance | None = None
    undecided_harmless: Chance | None = None
    runs: int = 0
    unknown: str | None = None


def expect(asked: Asked, *, traffic: Traffic, spread: Spread | str, horizon: timedelta, seed: int = 0) -> Expected:
    """Forecast one metric of one step; `spread` is the reason where it is not known.

    The harmful candidate is worse by twice the margin. Costs three simulations, about 0.3 s for four weeks of days.
    """
    rows = traffic.labelled_per_block if asked.needs_labels else traffic.rows_per_block
    copied = None if rows is None else rows * asked.copied
    by_rows = asked.unit is EvidenceUnit.ROW
    known = {
        "step": asked.step,
        "metric": asked.metric,
        "margin": asked.margin,
        "alpha": asked.alpha,
        "parts": asked.parts,
        "unit": "requests" if by_rows else "days" if asked.block == timedelta(days=1) else "blocks",
        "needed": asked.rows_min if by_rows else asked.blocks_min,
        "block": asked.block,
        "blocks_max": asked.blocks_max,
        "labelled_per_block": copied,
    }
    why = _unknown(asked, copied, traffic, spread)
    if why is not None or isinstance(spread, str) or copied is None:
        told = None if isinstance(spread, str) else spread
        return Expected(**known, spread=told, unknown=why)  # type: ignore[arg-type]
    low, high = spread.between
    middle, best, worst = (_simulated(asked, sd, copied, seed) for sd in (spread.sd, low, high))
    ends = [None if f.blocks_median is None else f.blocks_median * asked.block + horizon for f in (middle, best, worst)]
    return Expected(
        **known,  # type: ignore[arg-type]
        spread=spread,
        decided_after=ends[0],
        decided_between=(ends[1], ends[2]),
        promoted_harmless=_chance([(f.promoted_harmless, f.promoted_harmless_between) for f in (middle, best, worst)]),
        caught_harmful=_chance([(f.caught_harmful, f.caught_harmful_between) for f in (middle, best, worst)]),
        undecided_harmless=_chance(
            [(f.undecided_harmless, (f.undecided_harmless,) * 2) for f in (middle, best, worst)]
        ),
        runs=RUNS,
    )


def _unknown(asked: Asked, rows: float | None, traffic: Traffic, spread: Spread | str) -> str | None:
    if asked.margin == 0.0:
        return "the margin is 0, so twice the margin is no harm; declare a margin"
    if rows is None and traffic.windows:
        return f"no window of the last {traffic.windows} had its labels yet"
    if rows is None:
        return "no window of traffic was measured yet"
    if rows < BLOCK_ROWS_MIN:
        return f"a block has about {rows:.0f} labelled requests, and below {BLOCK_ROWS_MIN} it is no evidence"
    return spread if isinstance(spread, str) else None


def _simulated(asked: Asked, sd: float, rows: float, seed: int) -> Forecast:
    return forecast(
        sd=sd,
        margin=asked.margin,
        alpha=asked.alpha,
        unit=asked.unit,
        blocks_min=asked.blocks_min,
        blocks_max=asked.blocks_max,
        n_per_block=max(round(rows), 1),
        rows_min=asked.rows_min,
        harm_range=HARM_RANGES.get(asked.metric),
        seed=seed,
        runs=RUNS,
    )


def _chance(found: Sequence[tuple[float, tuple[float, ...]]]) -> Chance:
    bounds = [bound for _, between in found for bound in between]
    return Chance(value=found[0][0], low=min(bounds), high=max(bounds))


def spread_between(groups: Sequence[Sequence[float]], *, source: str) -> Spread | None:
    """Pooled over comparisons of different versions, each around its own mean; None where no two blocks belong together."""
    told = [group for group in groups if len(group) >= 2]
    freedom = sum(len(group) - 1 for group in told)
    if not freedom:
        return None
    squares = sum(sum((x - math.fsum(group) / len(group)) ** 2 for x in group) for group in told)
    return Spread(sd=math.sqrt(squares / freedom), n=sum(map(len, told)), freedom=freedom, source=source)


def spread_within(blocks: Sequence[tuple[float, int]], *, source: str) -> Spread | None:
    """Of single requests' harms, from each block's standard deviation and its n; None where none is known."""
    freedom = sum(n - 1 for _, n in blocks if n > 1)
    if not freedom:
        return None
    squares = sum((n - 1) * sd * sd for sd, n in blocks if n > 1)
    return Spread(sd=math.sqrt(squares / freedom), n=sum(n for _, n in blocks), freedom=freedom, source=source)


def spread_in_split(groups: Sequence[Sequence[tuple[float, float]]], *, weight: float, source: str) -> Spread | None:
    """Of (block harm, share the candidate then got): what it is at `weight`, for harm that is as uncertain as its arms are
    small, √(1 / (w (1 − w))). Blocks of other shares are scaled so, hence a day's own luck is a little overstated."""
    scaled = [
        [harm * math.sqrt(share * (1.0 - share) / (weight * (1.0 - weight))) for harm, share in group]
        for group in groups
    ]
    return spread_between(scaled, source=source)


def spread_behind(*, radius: float, n: int, alpha: float, source: str) -> Spread | None:
    """The spread that made a gate's interval: its Student radius over `n` blocks, each bound with 1 − alpha."""
    if n < 2 or not radius > 0.0:
        return None
    sd = radius * math.sqrt(n) / student_quantile(1.0 - alpha, n - 1)
    return Spread(sd=sd, n=n, freedom=n - 1, source=source)


def _chi_square(freedom: int, z: float) -> float:
    part = 2.0 / (9.0 * freedom)
    return float(freedom * max(1.0 - part + z * math.sqrt(part), 0.0) ** 3)
