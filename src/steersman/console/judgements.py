"""A judgement as a picture: the interval against the margin over time, what each version did, and how many labels came.

Three panels over one time axis, each with its finding in a sentence, and one table with every number of all three.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from markupsafe import Markup

from steersman.console import wording
from steersman.console.charts import Chart, axis
from steersman.console.drawing import (
    TimeScale,
    area_path,
    element,
    line_path,
    pct,
    picture,
    rule,
    stretched,
    text,
    tip,
    upright,
    value_scale,
)
from steersman.console.views.verdicts import Evidence, Look

PARTS = {"analysis": "in the analysis", "bake": "in the bake", "recovery": "since the remedy was promoted"}

TICKS_MAX = 6
"""Labels under a chart that may share the page's width with another one."""

BAR_WIDTH = 0.62
"""Width of a bar, as a share of its block."""

PLACE = 4
"""Pixels between a label and what it labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Panels from top to bottom, and the table of all of them."""

    name: str
    panels: tuple[Chart, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def judgement(evidence: Evidence, reference: str, compared: str) -> Judgement:
    """`reference` and `compared` are what the two versions are called."""
    panels = (interval(evidence), arms(evidence, reference, compared), labels(evidence))
    return Judgement(
        name=f"{evidence.metric} {PARTS[evidence.part]}",
        panels=panels,
        columns=("block", reference, compared, "harm", "labelled", "coverage", "mean so far", "interval so far"),
        rows=tuple(_row(look) for look in evidence.looks),
    )


def _row(look: Look) -> tuple[str, ...]:
    known = look.lower is not None or look.upper is not None
    return (
        wording.day(look.at),
        wording.figure(look.reference, 4),
        wording.figure(look.compared, 4),
        wording.signed(look.harm),
        wording.count(look.n),
        _coverage(look),
        wording.signed(look.estimate),
        f"{wording.signed(look.lower)} to {wording.signed(look.upper)}" if known else wording.NOTHING,
    )


def _scale(evidence: Evidence) -> tuple[TimeScale, list[float]]:
    """The time axis all panels share, with room for the last block, and the middle of each block on it."""
    looks, half = evidence.looks, evidence.block / 2
    scale = TimeScale(begin=looks[0].at, end=looks[-1].at + 2 * half)
    if len(looks) > 1:
        scale = TimeScale(begin=looks[0].at - half, end=looks[-1].at + 3 * half)
    return scale, [scale.at(look.at + half) for look in looks]


def _values(looks: Sequence[Look], of: Callable[[Look], float | None]) -> list[float]:
    return [value for look in looks if (value := of(look)) is not None]


# --- the interval


def interval(evidence: Evidence) -> Chart:
    """The confidence sequence after each block, against the margin: decided where the band leaves the line."""
    height, looks = 210, evidence.looks
    spread = [look.harm for look in looks] + [0.0, evidence.margin * 1.4 or 0.01, -evidence.margin * 0.6]
    spread += _values(looks, lambda look: look.lower) + _values(looks, lambda look: look.upper)
    values = value_scale(spread, top=8, height=height - 16)
    _, xs = _scale(evidence)
    banded = [(x, look) for x, look in zip(xs, looks, strict=True) if look.lower is not None and look.upper is not None]
    estimated = [(x, look.estimate) for x, look in zip(xs, looks, strict=True) if look.estimate is not None]
    margin = values.at(evidence.margin)
    paths = stretched(
        area_path(
            [(x, values.at(look.upper or 0.0)) for x, look in banded],
            [(x, values.at(look.lower or 0.0)) for x, look in banded],
            "band",
        ),
        line_path([(x, values.at(estimate)) for x, estimate in estimated], "mean-line"),
        top=0,
        height=height,
    )
    dots = [
        element(
            "circle",
            tip(f"{wording.day(look.at)}: harm {wording.signed(look.harm)}, n = {look.n}"),
            cx=pct(x),
            cy=values.at(look.harm),
            r=3.5,
            class_="block",
        )
        for x, look in zip(xs, looks, strict=True)
    ]
    words = _finding(evidence)
    drawn = picture(
        element("rect", x="0", width="100%", y=0, height=margin, class_="beyond"),
        *(rule(values.at(tick), "grid") for tick in values.ticks()),
        rule(values.at(0.0), "zero"),
        paths,
        rule(margin, "margin"),
        *_bounds(banded, values.at),
        *_concluded(evidence, xs, height),
        *dots,
        text(_limit(evidence), 0, margin - 6, "on-margin", dx=6),
        height=height,
        name=f"Harm in {evidence.metric}, {evidence.part}",
        description=words,
    )
    return Chart(
        name=f"{evidence.metric} {PARTS[evidence.part]}",
        picture=drawn,
        finding=words,
        axis=axis(values, height),
        columns=(),
        rows=(),
        legend=(
            ("key-dot", "harm of one block"),
            ("key-mean", "mean so far"),
            ("key-band", "interval, valid at every look"),
        ),
    )


def _bounds(banded: Sequence[tuple[float, Look]], at: Callable[[float], float]) -> list[Markup]:
    """An upright bar where there is but one look with an interval: a band of one point has no width."""
    if len(banded) != 1:
        return []
    x, look = banded[0]
    return [upright(x, at(look.upper or 0.0), at(look.lower or 0.0), "reach")]


def _concluded(evidence: Evidence, xs: Sequence[float], height: int) -> list[Markup]:
    """Where the step was concluded: blocks to the right came in later and changed nothing."""
    if evidence.decided is None or not 0 < evidence.decided < len(xs):
        return []
    x = xs[evidence.decided - 1]
    left = x > 0.7
    anchor, dx = ("end", -PLACE) if left else ("start", PLACE)
    return [upright(x, 0, height, "concluded"), text("concluded", x, height - 6, "on-concluded", anchor=anchor, dx=dx)]


def _limit(evidence: Evidence) -> str:
    if evidence.part == "recovery":
        return "worse than the replaced version above"
    return f"margin {evidence.margin:g}: not tolerated above"


def _finding(evidence: Evidence) -> str:
    last = evidence.looks[-1]
    if last.lower is None or last.upper is None or last.estimate is None:
        have = wording.counted(len(evidence.looks), "block")
        return f"{have} so far, at least {evidence.blocks_min} are needed before anything can be said."
    place = "straddles"
    if last.upper < evidence.margin:
        place = "lies below"
    elif last.lower > evidence.margin:
        place = "lies above"
    limit = "zero, where both are alike" if evidence.part == "recovery" else f"the margin of {evidence.margin:g}"
    more = ""
    if evidence.decided is not None and evidence.decided < len(evidence.looks):
        more = f" It was concluded after {wording.counted(evidence.decided, 'block')}; later ones are shown and changed nothing."
    return (
        f"After {wording.counted(len(evidence.looks), 'block')} and {wording.count(evidence.rows)} labelled requests, harm is "
        f"{wording.signed(last.estimate)} [{wording.signed(last.lower)}, {wording.signed(last.upper)}]: the interval {place} "
        f"{limit}. Below zero the newer version is better.{more}"
    )


# --- what each version did


def arms(evidence: Evidence, reference: str, compared: str) -> Chart:
    """The metric of both versions, block by block."""
    height, looks = 116, evidence.looks
    both = [value for look in looks for value in (look.reference, look.compared)]
    values = value_scale(both, top=24, height=height - 32, air=0.1)
    _, xs = _scale(evidence)
    means = [sum(side) / len(looks) for side in ([k.reference for k in looks], [k.compared for k in looks])]
    better = sum(look.harm < 0 for look in looks)
    words = (
        f"{evidence.metric} by block: {compared} {wording.figure(means[1], 4)} and {reference} "
        f"{wording.figure(means[0], 4)} in the mean of the blocks; {compared} was the better one in {better} of {len(looks)}."
    )
    dots = [
        element(
            "circle", tip(f"{wording.day(look.at)}: {name} {value:.4f}"), cx=pct(x), cy=values.at(value), r=r, class_=c
        )
        for x, look in zip(xs, looks, strict=True)
        for name, value, r, c in ((reference, look.reference, 3.0, "alone"), (compared, look.compared, 3.5, "now"))
    ]
    drawn = picture(
        *(rule(values.at(tick), "grid") for tick in values.ticks()),
        stretched(
            line_path([(x, values.at(k.reference)) for x, k in zip(xs, looks, strict=True)], "alone-line"),
            line_path([(x, values.at(k.compared)) for x, k in zip(xs, looks, strict=True)], "mean-line"),
            top=0,
            height=height,
        ),
        *dots,
        height=height,
        name=f"{evidence.metric} of both versions, {evidence.part}",
        description=words,
    )
    return Chart(
        name=f"{evidence.metric} of both versions",
        picture=drawn,
        finding=words,
        axis=axis(values, height),
        columns=(),
        rows=(),
        legend=(("key-mean", compared), ("key-alone", reference)),
    )


# --- labels


def labels(evidence: Evidence) -> Chart:
    """How many labelled requests each block rests on, and the dates of the blocks under it."""
    height, looks = 84, evidence.looks
    scale, xs = _scale(evidence)
    counts = [look.n for look in looks]
    values = value_scale([0, *counts], top=10, height=height - 34, air=0.0)
    floor = values.at(0.0)
    width = BAR_WIDTH * (scale.at(looks[0].at + evidence.block) - scale.at(looks[0].at))
    bars = [
        element(
            "rect",
            tip(f"{wording.day(look.at)}: {wording.count(look.n)} labelled requests, coverage {_coverage(look)}"),
            x=pct(x - width / 2),
            width=pct(width),
            y=values.at(look.n),
            height=max(floor - values.at(look.n), 1.0),
            class_="amount",
        )
        for x, look in zip(xs, looks, strict=True)
    ]
    words = (
        f"Each block rests on {wording.count(min(counts))} to {wording.count(max(counts))} labelled requests"
        if min(counts) != max(counts)
        else f"Each block rests on {wording.counted(counts[0], 'labelled request')}"
    )
    words += f"{_coverage_words(looks)}."
    ticks = [
        text(label, share, height - 4, "tick" + ("" if index % 2 else " roomy"), anchor="middle")
        for index, (share, label) in enumerate(_block_ticks(evidence, scale))
    ]
    drawn = picture(
        rule(floor, "zero"),
        *bars,
        *ticks,
        height=height,
        name=f"Labelled requests by block, {evidence.part}",
        description=words,
    )
    top = element("text", wording.count(max(counts)), x=8, y=values.at(max(counts)) + 4, class_="tick")
    zero = element("text", "0", x=8, y=floor + 4, class_="tick")
    return Chart(
        name="Labelled requests by block",
        picture=drawn,
        finding=words,
        axis=element("svg", top, zero, class_="axis", width=52, height=height, aria_hidden="true"),
        columns=(),
        rows=(),
    )


def _coverage(look: Look) -> str:
    """The share of matured requests that have a label, by arm: the one before, the one that is judged."""
    sides = (look.coverage_reference, look.coverage_compared)
    if None in sides:
        return wording.NOTHING
    shown = [f"{100 * (side or 0.0):.1f} %" for side in sides]
    return shown[0] if shown[0] == shown[1] else " and ".join(shown)


def _coverage_words(looks: Sequence[Look]) -> str:
    known = _values(looks, lambda look: look.coverage_reference) + _values(looks, lambda look: look.coverage_compared)
    if not known:
        return ""
    low, high = (f"{100 * share:.1f} %" for share in (min(known), max(known)))
    return f"; {low if low == high else f'{low} to {high}'} of the matured requests have their label"


def _block_ticks(evidence: Evidence, scale: TimeScale) -> list[tuple[float, str]]:
    step = max(math.ceil(len(evidence.looks) / TICKS_MAX), 1)
    half = evidence.block / 2
    label = wording.short_day if evidence.block >= timedelta(days=1) else (lambda at: f"{at:%H:%M}")
    return [(scale.at(look.at + half), label(look.at)) for look in evidence.looks[::step]]
