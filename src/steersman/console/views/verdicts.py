"""Verdicts and the evidence under them: each block, and what the interval said after each look.

Everything a page says about a judgement passes through here: fields that a verdict or a block gains are read in one
place, and a page shows them where they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from steersman.domain.verdicts import Verdict
from steersman.store.records import Cohort, PairBlock, StoredVerdict

Judge = Callable[[Sequence[PairBlock]], Verdict]
"""The rule that judges the blocks known so far, with the margin and the alpha of its step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    """A verdict as it was kept. `data` is the digest of the rows it rests on, `code` says what computed it."""

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
    needed: int | None = None
    data: str | None = None
    code: str | None = None
    applies: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One block, and the confidence sequence after it. Bounds are None while too few blocks say anything.

    `coverage_*` are the shares of the arm's matured requests that have a label; None in blocks kept before it was counted.
    """

    at: datetime
    harm: float
    reference: float
    compared: float
    n: int
    estimate: float | None
    lower: float | None
    upper: float | None
    coverage_reference: float | None = None
    coverage_compared: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceView:
    """What was said of one part of the requests, such as `origin=EWR`."""

    name: str
    verdict: VerdictView


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence about one metric in one part of a release: an `analysis`, the `bake`, or an incident's `recovery`.

    `verdict` is the kept one, else the rule's over all blocks shown; `slices` come worst first; `decided` is the number of
    blocks on which the step was concluded, and `otherwise` what the document says happens when the data cannot tell by
    `ends_at`.
    """

    part: str
    metric: str
    margin: float
    blocks_min: int
    block: timedelta
    looks: tuple[Look, ...]
    verdict: VerdictView
    decided: int | None = None
    mode: str = "paired"
    slices: tuple[SliceView, ...] = ()
    otherwise: str = ""
    ends_at: datetime | None = None

    @property
    def rows(self) -> int:
        return sum(look.n for look in self.looks)

    @property
    def outcome(self) -> str:
        return self.verdict.outcome

    @property
    def because(self) -> str:
        return self.verdict.because


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
        needed=None if body.get("needed") is None else int(body["needed"]),
        data=body.get("data"),
        code=body.get("code"),
        applies=body.get("applies", True) is not False,
    )


def present_view(verdict: Verdict, *, kind: str, name: str, step: int, at: datetime) -> VerdictView:
    """A verdict that was just reached and is not kept (yet)."""
    return VerdictView(
        kind=kind,
        name=name,
        step=step,
        at=at,
        outcome=str(verdict.outcome),
        because=verdict.because,
        estimate=verdict.estimate,
        lower=verdict.lower,
        upper=verdict.upper,
        n=verdict.n,
        n_unit=verdict.n_unit,
        margin=verdict.margin,
        method=verdict.method,
        needed=verdict.needed,
        data=verdict.data,
        code=verdict.code,
    )


def evidence(
    part: str,
    metric: str,
    blocks: Sequence[PairBlock],
    judge: Judge,
    *,
    cohorts: Mapping[datetime, Cohort] | None = None,
    margin: float,
    blocks_min: int,
    block: timedelta,
    step: int = 0,
) -> Evidence:
    """The sequence as it stood after each block, by the very rule that judges it. `blocks` must not be empty."""
    verdicts = [judge(blocks[:count]) for count in range(1, len(blocks) + 1)]
    return Evidence(
        part=part,
        metric=metric,
        margin=margin,
        blocks_min=blocks_min,
        block=block,
        looks=tuple(
            _look(found, verdict, (cohorts or {}).get(found.block))
            for found, verdict in zip(blocks, verdicts, strict=True)
        ),
        verdict=present_view(verdicts[-1], kind=part, name=metric, step=step, at=blocks[-1].block),
    )


def _look(block: PairBlock, verdict: Verdict, cohort: Cohort | None) -> Look:
    return Look(
        at=block.block,
        harm=block.harm,
        reference=block.value_reference,
        compared=block.value_compared,
        n=block.n,
        estimate=verdict.estimate,
        lower=verdict.lower,
        upper=verdict.upper,
        coverage_reference=_share(cohort.labelled_reference, cohort.matured_reference) if cohort else None,
        coverage_compared=_share(cohort.labelled_compared, cohort.matured_compared) if cohort else None,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _number(value: Any) -> float | None:
    try:
        return None if value is None else _finite(float(value))
    except (TypeError, ValueError):
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
