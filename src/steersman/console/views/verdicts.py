"""Verdicts and the evidence under them: each block, and what the interval said after each look."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from steersman.decide.judging import harm_interval, judge_paired
from steersman.store.records import PairBlock, StoredVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    kind: str
    name: str
    step: int
    at: datetime
    outcome: str
    because: str
    estimate: float | None
    lower: float | None
    upper: float | None
    n: int
    n_unit: str
    margin: float | None
    method: str | None
    applies: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One block, and the confidence sequence after it. Bounds are None while too few blocks say anything."""

    at: datetime
    harm: float
    reference: float
    compared: float
    n: int
    estimate: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Paired evidence about one metric in one part of a release: the shadow (`analysis`) or the `bake`."""

    part: str
    metric: str
    margin: float
    blocks_min: int
    block: timedelta
    looks: tuple[Look, ...]
    outcome: str
    because: str

    @property
    def rows(self) -> int:
        return sum(look.n for look in self.looks)


def verdict_view(stored: StoredVerdict) -> VerdictView:
    """Reads what was kept; numbers may be kept as text, as in the ledger."""
    body = stored.body
    return VerdictView(
        kind=stored.kind,
        name=str(body.get("name") or body.get("metric") or stored.kind),
        step=stored.step,
        at=stored.at,
        outcome=str(body.get("outcome", "")),
        because=str(body.get("because", "")),
        estimate=_number(body.get("estimate")),
        lower=_number(body.get("lower")),
        upper=_number(body.get("upper")),
        n=int(body.get("n") or 0),
        n_unit=str(body.get("n_unit") or "requests"),
        margin=_number(body.get("margin")),
        method=body.get("method"),
        applies=body.get("applies", True) is not False
        and "no production version to compare" not in str(body.get("because")),
    )


def evidence(
    part: str,
    metric: str,
    blocks: Sequence[PairBlock],
    *,
    margin: float,
    alpha: float,
    blocks_min: int,
    block: timedelta,
) -> Evidence:
    """The sequence as it stood after each block, by the rule that judges it."""
    harms = [b.harm for b in blocks]
    verdict = judge_paired(harms, margin=margin, metric=metric, blocks_min=blocks_min, alpha=alpha)
    looks = []
    for index, found in enumerate(blocks, start=1):
        lower = upper = None
        seen = np.asarray(harms[:index], dtype=np.float64)
        if index >= 2:
            interval, _ = harm_interval(seen, margin=margin, alpha=alpha)
            lower, upper = _finite(interval.lower), _finite(interval.upper)
        looks.append(
            Look(
                at=found.block,
                harm=found.harm,
                reference=found.value_reference,
                compared=found.value_compared,
                n=found.n,
                estimate=float(np.mean(seen)),
                lower=lower,
                upper=upper,
            )
        )
    return Evidence(
        part=part,
        metric=metric,
        margin=margin,
        blocks_min=blocks_min,
        block=block,
        looks=tuple(looks),
        outcome=str(verdict.outcome),
        because=verdict.because,
    )


def _number(value: Any) -> float | None:
    try:
        return None if value is None else _finite(float(value))
    except (TypeError, ValueError):
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
