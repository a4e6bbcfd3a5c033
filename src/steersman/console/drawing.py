"""SVG without a library: marks, scales and ticks for charts that fit any width.

A chart must be as readable on a telephone as on a wall, and text must not shrink with the picture. So positions along
x are percentages of whatever width there is, heights are pixels, and only lines and areas, which percentages cannot
describe, are drawn in a nested picture that stretches (its strokes do not). Colours are classes: the stylesheet knows
light and dark, the drawing does not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

STRETCH = 1000
"""Width of the nested picture's own coordinates; it is stretched to the width of the chart."""

Attribute = str | float | int | None


def element(tag: str, *children: str | Markup, **attributes: Attribute) -> Markup:
    """One element; attribute names have `_` for `-`, and a trailing `_` where Python needs the word. None is left out."""
    parts = [tag]
    for name, value in attributes.items():
        if value is None:
            continue
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        name = name if name == "viewBox" else name.rstrip("_").replace("_", "-")
        parts.append(f'{name}="{escape(text)}"')
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{' '.join(parts)}>{inner}</{tag}>")  # noqa: S704 - every part above is escaped


def joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def pct(share: float) -> str:
    """A position along x."""
    return f"{100 * share:.2f}%"


def picture(
    *children: Markup, height: int, name: str, description: str, kind: str = "img", class_: str = "field"
) -> Markup:
    """An SVG as wide as its place, with a name and a description for those who hear it."""
    return element(
        "svg",
        element("title", name),
        element("desc", description),
        *children,
        class_=class_,
        width="100%",
        height=height,
        role=kind,
        aria_label=f"{name}. {description}",
    )


def stretched(*paths: Markup, top: int, height: int) -> Markup:
    """Holds paths whose x runs from 0 to `STRETCH`."""
    return element(
        "svg",
        *paths,
        class_="stretch",
        x=0,
        y=top,
        width="100%",
        height=height,
        viewBox=f"0 0 {STRETCH} {height}",
        preserveAspectRatio="none",
    )


def line_path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Points as (share of x, pixel of y)."""
    steps = " L".join(f"{STRETCH * x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=f"M{steps}" if steps else None, class_=class_)


def area_path(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Between two lines over the same x."""
    ring = [*upper, *reversed(lower)]
    steps = " L".join(f"{STRETCH * x:.1f} {y:.1f}" for x, y in ring)
    return element("path", d=f"M{steps} Z" if steps else None, class_=class_)


def text(
    content: str, x: float, y: float, class_: str, *, anchor: str | None = None, dx: float | None = None
) -> Markup:
    return element("text", content, x=pct(x), y=y, dx=dx, class_=class_, text_anchor=anchor)


def rule(y: float, class_: str) -> Markup:
    """A line across the whole width."""
    return element("line", x1="0", x2="100%", y1=y, y2=y, class_=class_)


def upright(x: float, top: float, bottom: float, class_: str) -> Markup:
    return element("line", x1=pct(x), x2=pct(x), y1=top, y2=bottom, class_=class_)


def box(since: float, until: float, y: float, height: float, class_: str, *children: Markup, rx: float = 0) -> Markup:
    """A rectangle between two positions of x, at least a sliver wide."""
    width = max(until - since, 0.0015)
    return element("rect", *children, x=pct(since), width=pct(width), y=y, height=height, rx=rx or None, class_=class_)


def tip(words: str) -> Markup:
    """Shown on hovering; the same words stand in the chart's table."""
    return element("title", words)


MARKS = {
    "good": "M-4.5 0 L-1.2 3.4 L4.8 -3.6",
    "bad": "M-3.6 -3.6 L3.6 3.6 M3.6 -3.6 L-3.6 3.6",
    "warn": "M3.6 -3.2 V0.6 H-3.4 M-0.8 -2.2 L-3.6 0.6 L-0.8 3.4",
    "busy": "M-2.4 -3.8 L2.8 0 L-2.4 3.8",
    "wait": "M-1.9 -3.2 V3.2 M1.9 -3.2 V3.2",
    "unsure": "M-4 1.2 C-2.6 -2.6 -0.9 -1.4 0 0 S2.6 2.6 4 -1.2",
    "quiet": "M-3.6 0 H3.6",
}
"""A sign for every tone (tick, cross, turning back, forwards, pause, wave, dash), so that no state is told by colour alone."""


def mark(x: float, y: float, tone: str, *children: Markup) -> Markup:
    """A round badge with the sign of a tone, at a position of x."""
    return element(
        "svg",
        *children,
        element("circle", r=8, class_=f"badge {tone}"),
        element("path", d=MARKS.get(tone, MARKS["quiet"]), class_="sign"),
        x=pct(x),
        y=y,
        overflow="visible",
        class_="mark",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeScale:
    begin: datetime
    end: datetime

    def at(self, moment: datetime) -> float:
        """Share of the width, within 0 and 1."""
        whole = (self.end - self.begin) / timedelta(seconds=1)
        share = (moment - self.begin) / timedelta(seconds=1) / whole if whole > 0 else 0.0
        return min(max(share, 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Beginnings of months, or of days where there are fewer than two; at most 16."""
        days = (self.end - self.begin) / timedelta(days=1)
        if days >= 62:
            found = list(_months(self.begin, self.end))
            step = math.ceil(len(found) / 14)
            return [(self.at(m), f"{m:%b %Y}" if m.month == 1 and step == 1 else f"{m:%b}") for m in found[::step]]
        if days >= 3:
            step = max(math.ceil(days / 12), 1)
            first = self.begin.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
            found = [first + timedelta(days=step * i) for i in range(int(days // step) + 1)]
            return [(self.at(m), f"{m:%-d %b}") for m in found if m <= self.end]
        hours = max(math.ceil(days * 24 / 8), 1)
        first = self.begin.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        found = [first + timedelta(hours=hours * i) for i in range(int(days * 24 // hours) + 1)]
        return [(self.at(m), f"{m:%H:%M}") for m in found if m <= self.end]


def _months(begin: datetime, end: datetime) -> Iterable[datetime]:
    year, month = begin.year, begin.month
    while True:
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        moment = datetime(year, month, 1, tzinfo=UTC)
        if moment > end:
            return
        yield moment


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueScale:
    """Values onto pixels, the greatest at `top`."""

    low: float
    high: float
    top: int
    height: int

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.top + self.height * (1.0 - min(max(share, 0.0), 1.0))

    def step(self) -> float:
        """Distance of the ticks: a round value that fits three to seven of them."""
        raw = (self.high - self.low) / 6
        magnitude = 10.0 ** math.floor(math.log10(raw))
        return next(m * magnitude for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * magnitude >= raw * (1 - 1e-9))

    def digits(self) -> int:
        """Decimals a tick needs to be written exactly."""
        step = self.step()
        return next(d for d in range(12) if d == 11 or abs(round(step, d) - step) < step * 1e-6)

    def ticks(self) -> list[float]:
        step = self.step()
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]


def value_scale(values: Iterable[float], *, top: int, height: int, air: float = 0.08) -> ValueScale:
    """Around the values with some air above and below."""
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found), max(found)
    reach = max(high - low, 1e-6, abs(high) * 1e-3)
    return ValueScale(low=low - air * reach, high=high + air * reach, top=top, height=height)
