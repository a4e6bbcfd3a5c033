"""The charts of the console, drawn on the server.

Each is a `Chart`: a picture, its finding in one sentence, and its data as a table. A page shows all three, so that the
picture is never the only way to learn what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from steersman.console import wording
from steersman.console.drawing import (
    TimeScale,
    ValueScale,
    area_path,
    box,
    element,
    joined,
    line_path,
    mark,
    pct,
    picture,
    rule,
    stretched,
    text,
    tip,
    upright,
    value_scale,
)
from steersman.console.views.report import ReplayReport
from steersman.console.views.timeline import IncidentRow, ModelTimeline, Series, Span
from steersman.domain.incident import Incident
from steersman.domain.release import Release

NARROW = 0.1
"""Share of the width below which a label would not fit on a telephone; there it is left out."""

TOO_NARROW = 0.03
"""Share of the width below which a label fits nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    name: str
    picture: Markup
    finding: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    axis: Markup | None = None
    legend: tuple[tuple[str, str], ...] = ()


def axis(scale: ValueScale, height: int) -> Markup:
    """Values beside the field, not over it."""
    labels = [
        element("text", wording.figure(value, scale.digits()), x=8, y=scale.at(value) + 4, class_="tick")
        for value in scale.ticks()
    ]
    return element("svg", *labels, class_="axis", width=52, height=height, aria_hidden="true")


def _months(scale: TimeScale, y: float, *, top: float) -> list[Markup]:
    parts = []
    for index, (share, label) in enumerate(scale.ticks()):
        room = "" if index % 2 else " roomy"
        parts.append(upright(share, top, y - 14, "grid"))
        if share < 0.97:
            parts.append(text(label, share, y, "tick" + room, dx=4))
    return parts


# --- a model's year


def timeline(view: ModelTimeline) -> tuple[Chart | None, Chart]:
    """The metric by window, and below it on the same axis: live versions, releases, incidents."""
    scale = TimeScale(begin=view.begin, end=view.end)
    metric = None if view.series is None or not view.series.points else _metric(view, view.series, scale)
    return metric, _lanes(view, scale)


def _metric(view: ModelTimeline, series: Series, scale: TimeScale) -> Chart:
    height = 220
    values = value_scale([p.value for p in series.points], top=10, height=height - 20, air=0.04)
    bands = [
        box(scale.at(row.incident.detected_at), scale.at(row.incident.resolved_at or view.end), 0, height, "trouble")
        for row in view.incidents
    ]
    promotions = [upright(scale.at(span.since), 0, height, "promotion") for span in view.spans]
    middle = [(scale.at(p.start + (p.end - p.start) / 2), p) for p in series.points]
    paths = stretched(
        line_path([(x, values.at(p.value)) for x, p in middle], "window-line"),
        line_path([(x, values.at(p.mean)) for x, p in middle], "mean-line"),
        top=0,
        height=height,
    )
    last = series.points[-1]
    means = [point.mean for point in series.points[6:] or series.points]
    finding = (
        f"Over the last {wording.counted(min(len(series.points), 7), 'window')} {series.metric} of the live version is "
        f"{wording.figure(last.mean)}, n = {wording.count(last.n_mean)}; its mean of 7 windows lay between "
        f"{wording.figure(min(means))} and {wording.figure(max(means))}. "
        f"{'Higher' if series.higher_is_better else 'Lower'} is better."
    )
    drawn = picture(
        *bands,
        *(rule(values.at(tick), "grid") for tick in values.ticks()),
        *promotions,
        paths,
        element("circle", cx=pct(middle[-1][0]), cy=values.at(last.mean), r=4, class_="now"),
        height=height,
        name=f"{series.metric} per window",
        description=finding,
    )
    return Chart(
        name=f"{series.metric} per window",
        picture=drawn,
        finding=finding,
        axis=axis(values, height),
        columns=("window", "version", series.metric, "mean of 7", "n", "n of 7"),
        rows=tuple(
            (
                wording.day(p.start),
                f"v{p.version}",
                wording.figure(p.value, 4),
                wording.figure(p.mean, 4),
                wording.count(p.n),
                wording.count(p.n_mean),
            )
            for p in series.points
        ),
        legend=(
            ("key-mean", "mean of the last 7 windows"),
            ("key-window", "one window"),
            ("key-promotion", "promotion"),
            ("key-trouble", "incident open"),
        ),
    )


def _lanes(view: ModelTimeline, scale: TimeScale) -> Chart:
    height, y = 0, 16
    parts: list[Markup] = []
    parts.append(text("Live version", 0, y, "lane"))
    parts += [_span(span, index, scale, view.end, y + 8) for index, span in enumerate(view.spans)]
    y += 60
    parts.append(text("Releases", 0, y, "lane"))
    parts += [_release(release, scale, view.end, y + 20) for release in reversed(view.releases)]
    y += 56
    parts.append(text("Incidents", 0, y, "lane"))
    rows = list(reversed(view.incidents))
    parts += [_incident(row, scale, view.end, y + 20) for row in rows]
    parts += [
        mark(scale.at(row.incident.resolved_at), y + 20, "good") for row in rows if row.incident.resolved_at is not None
    ]
    y += 66
    height = y + 4
    promotions = [upright(scale.at(span.since), 0, y - 18, "promotion") for span in view.spans]
    months = _months(scale, y, top=0)
    live = (
        "nothing is live"
        if view.live is None
        else f"version {view.live.version} is live since {wording.day(view.live.promoted_at)}"
    )
    finding = (
        f"{wording.counted(len(view.releases), 'release')}, {wording.counted(len(view.spans), 'change')} of the live version, "
        f"{wording.counted(len(view.incidents), 'incident')}; {live}."
    )
    drawn = picture(
        *months,
        *promotions,
        *parts,
        height=height,
        name="Versions, releases and incidents",
        description=finding,
        kind="group",
    )
    return Chart(
        name="Versions, releases and incidents",
        picture=drawn,
        finding=finding,
        axis=element("svg", class_="axis", width=52, height=height, aria_hidden="true"),
        columns=("what", "which", "from", "until", "outcome"),
        rows=(
            *(("live", f"v{s.version}", wording.moment(s.since), wording.moment(s.until), "") for s in view.spans),
            *(
                (
                    "release",
                    f"{r.number} (v{r.version})",
                    wording.moment(r.opened_at),
                    wording.moment(r.closed_at),
                    wording.state_of(r),
                )
                for r in reversed(view.releases)
            ),
            *(
                (
                    "incident",
                    wording.KINDS[row.incident.kind],
                    wording.moment(row.incident.began_at),
                    wording.moment(row.incident.resolved_at),
                    str(row.incident.state),
                )
                for row in reversed(view.incidents)
            ),
        ),
    )


def _linked(href: str, label: str, *children: Markup) -> Markup:
    return element("a", *children, href=href, aria_label=label)


def _span(span: Span, index: int, scale: TimeScale, end: datetime, y: float) -> Markup:
    since, until = scale.at(span.since), scale.at(span.until or end)
    words = f"version {span.version} live from {wording.day(span.since)} to {wording.day(span.until) if span.until else 'now'}"
    shade = _shade(span, index)
    parts = [box(since, until, y, 26, f"version {shade}", tip(words), rx=3)]
    width = until - since
    if width >= TOO_NARROW:
        parts.append(text(f"v{span.version}", since, y + 18, "on-bar" + (" roomy" if width < NARROW else ""), dx=8))
    return _linked(f"/releases/{span.release}", words, *parts)


def _shade(span: Span, index: int) -> str:
    """Neighbours differ; the version that is live now stands out."""
    return "now-live" if span.until is None else f"shade-{index % 2}"


def _release(release: Release, scale: TimeScale, end: datetime, y: float) -> Markup:
    opened = scale.at(release.opened_at)
    decided = release.degraded_at or release.promoted_at or release.closed_at
    state = wording.state_of(release)
    tone = wording.tone(state)
    words = f"release {release.number} of version {release.version}: {state}, opened {wording.day(release.opened_at)}"
    until = scale.at(decided or end)
    return _linked(
        f"/releases/{release.id}", words, box(opened, until, y - 2, 4, f"way {tone}"), mark(until, y, tone, tip(words))
    )


def _incident(row: IncidentRow, scale: TimeScale, end: datetime, y: float) -> Markup:
    incident = row.incident
    began, detected = scale.at(incident.began_at), scale.at(incident.detected_at)
    until = scale.at(incident.resolved_at or end)
    words = (
        f"incident, {wording.KINDS[incident.kind]}: began {wording.day(incident.began_at)}, detected "
        f"{wording.day(incident.detected_at)}, "
        + (f"resolved {wording.day(incident.resolved_at)}" if incident.resolved_at else "open")
    )
    tone = "open" if incident.resolved_at is None else "over"
    return _linked(
        f"/incidents/{incident.id}",
        words,
        box(began, detected, y - 6, 12, "incident unnoticed"),
        box(detected, until, y - 6, 12, f"incident {tone}", tip(words), rx=2),
    )


def sparkline(series: Series | None, spans: Sequence[Span], begin: datetime, end: datetime) -> Chart | None:
    """A model's history in the size of a line of text: its metric, and which version answered."""
    if series is None or len(series.points) < 2:
        return None
    scale = TimeScale(begin=begin, end=end)
    height, strip = 56, 9
    values = value_scale([p.mean for p in series.points], top=5, height=height - 10)
    line = [(scale.at(p.start + (p.end - p.start) / 2), values.at(p.mean)) for p in series.points]
    last = series.points[-1]
    finding = (
        f"{series.metric} {wording.figure(last.mean)}, mean of the last windows, n = {wording.count(series.n)} in all"
    )
    bars = [
        box(
            scale.at(s.since),
            scale.at(s.until or end) - 0.002,
            height + 4,
            strip,
            f"version {_shade(s, index)}",
            tip(f"version {s.version} since {wording.day(s.since)}"),
            rx=2,
        )
        for index, s in enumerate(spans)
    ]
    drawn = picture(
        stretched(
            area_path(line, [(line[0][0], float(height)), (line[-1][0], float(height))], "spark-area"),
            line_path(line, "mean-line"),
            top=0,
            height=height,
        ),
        *bars,
        element("circle", cx=pct(line[-1][0]), cy=line[-1][1], r=3.5, class_="now"),
        height=height + strip + 5,
        name=f"{series.metric} over time and the live version",
        description=finding,
    )
    return Chart(name=series.metric, picture=drawn, finding=finding, columns=(), rows=())


# --- an incident's clock


def clock(incident: Incident, *, recovered: bool, now: datetime) -> Chart:
    """From the first sign to the end, which is a verified recovery or a closing without one."""
    began, detected, resolved = incident.began_at, incident.detected_at, incident.resolved_at
    end = resolved or now
    scale = TimeScale(begin=began, end=max(end, detected + timedelta(hours=1)))
    last = "now" if resolved is None else "recovered" if recovered else "closed"
    names = [("began", began), ("detected", detected), ("remedy", incident.remedied_at), (last, end)]
    stops = [(name, at) for name, at in names if at is not None]
    seen = scale.at(detected)
    finding = f"Detected {wording.span(detected - began)} after it began; " + (
        f"{last} {wording.span(resolved - detected)} after that."
        if resolved
        else f"open for {wording.span(now - detected)}."
    )
    drawn = picture(
        box(0.0, seen, 30, 12, "incident unnoticed"),
        box(seen, 1.0, 30, 12, "incident " + ("over" if resolved else "open"), rx=2),
        element("circle", cx="0%", cy=36, r=5, class_="stop"),
        element("circle", cx=pct(seen), cy=36, r=5, class_="stop"),
        mark(1.0, 36, "good") if resolved else element("circle", cx="100%", cy=36, r=5, class_="stop"),
        text("began", 0.0, 16, "lane", dx=-4),
        text(wording.short_day(began), 0.0, 66, "tick", dx=-4),
        text("detected", seen, 16, "lane", anchor="middle" if seen > 0.15 else "start"),
        text(wording.short_day(detected), seen, 66, "tick", anchor="middle" if seen > 0.15 else "start"),
        text(last, 1.0, 16, "lane", anchor="end", dx=8),
        text(wording.short_day(end), 1.0, 66, "tick", anchor="end", dx=8),
        height=74,
        name="Clock of the incident",
        description=finding,
        class_="field clock",
    )
    rows = tuple((name, wording.moment(at), wording.span(at - began)) for name, at in stops)
    return Chart(name="Clock", picture=drawn, finding=finding, columns=("moment", "at", "after it began"), rows=rows)


# --- a replayed year


def months(report: ReplayReport) -> Chart | None:
    """AUC by month, the loop against the first version left alone."""
    found = [(m, m.auc_loop, m.auc_static) for m in report.months]
    both = [(m, loop, static) for m, loop, static in found if loop is not None and static is not None]
    if len(both) < 2:
        return None
    height = 240
    values = value_scale([v for _, a, b in both for v in (a, b)], top=12, height=height - 44, air=0.12)
    xs = [(index + 0.5) / len(both) for index in range(len(both))]
    upper = [(x, values.at(loop)) for x, (_, loop, _) in zip(xs, both, strict=True)]
    lower = [(x, values.at(static)) for x, (_, _, static) in zip(xs, both, strict=True)]
    gain = report.gain or 0.0
    finding = (
        f"Over {wording.counted(len(both), 'month')} and {wording.count(report.flights)} flights the loop's AUC is on average "
        f"{wording.figure(abs(gain))} {'above' if gain >= 0 else 'below'} that of the first version left alone."
    )
    dots = [
        joined(
            (
                element("circle", tip(f"{m.month}: loop {loop:.3f}"), cx=pct(x), cy=values.at(loop), r=4, class_="now"),
                element(
                    "circle",
                    tip(f"{m.month}: left alone {static:.3f}"),
                    cx=pct(x),
                    cy=values.at(static),
                    r=3.5,
                    class_="alone",
                ),
            )
        )
        for x, (m, loop, static) in zip(xs, both, strict=True)
    ]
    labels = [
        text(_month_name(m.month), x, height - 6, "tick" + (" roomy" if index % 2 else ""), anchor="middle")
        for index, (x, (m, _, _)) in enumerate(zip(xs, both, strict=True))
    ]
    drawn = picture(
        *(rule(values.at(tick), "grid") for tick in values.ticks()),
        stretched(
            area_path(upper, lower, "gain"),
            line_path(lower, "alone-line"),
            line_path(upper, "mean-line thick"),
            top=0,
            height=height,
        ),
        *dots,
        *labels,
        height=height,
        name="AUC by month, the loop and the first version left alone",
        description=finding,
    )
    return Chart(
        name="AUC by month",
        picture=drawn,
        finding=finding,
        axis=axis(values, height),
        columns=("month", "flights", "AUC, loop", "AUC, left alone", "gain", "log loss, loop", "log loss, left alone"),
        rows=tuple(
            (
                m.month,
                wording.count(m.flights),
                wording.figure(m.auc_loop),
                wording.figure(m.auc_static),
                wording.signed(m.gain, 3),
                wording.figure(m.log_loss_loop),
                wording.figure(m.log_loss_static),
            )
            for m in report.months
        ),
        legend=(("key-mean", "the loop"), ("key-alone", "version 1 left alone"), ("key-gain", "what the loop won")),
    )


def _month_name(month: str) -> str:
    try:
        return f"{datetime.strptime(month, '%Y-%m'):%b}"  # noqa: DTZ007 - a month has no time zone
    except ValueError:
        return month
