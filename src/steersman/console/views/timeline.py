"""One model in one environment on one time axis: which version answered when, how well, and what happened to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from steersman.decide import routing
from steersman.domain import spec
from steersman.domain.access import Access, Permission
from steersman.domain.errors import NotFound
from steersman.domain.incident import Finding, Incident, IncidentState, Training
from steersman.domain.metrics import METRICS, Direction
from steersman.domain.release import Release
from steersman.domain.version import Version
from steersman.loop.agreeing import waivable
from steersman.loop.standing import standing
from steersman.loop.world import Documents, in_order
from steersman.store.records import Window
from steersman.store.transaction import Transaction

SMOOTHED_OVER = 7
"""Windows in the running mean that is drawn as the line: a week of days, because one day has one weather."""

PREFERRED = "production"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One matured window of the version that was live in it; `mean` runs over the last windows, weighted by n, and
    rests on `n_mean` labels."""

    start: datetime
    end: datetime
    version: int
    value: float
    mean: float
    n: int
    n_mean: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A version as the one that answers, from the promotion of a release to the next change; `until` None: still."""

    version: int
    digest: str
    release: str
    number: int
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    metric: str
    higher_is_better: bool
    points: tuple[Point, ...]

    @property
    def n(self) -> int:
        return sum(point.n for point in self.points)

    @property
    def last(self) -> Point | None:
        return self.points[-1] if self.points else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    version: Version
    releases: tuple[Release, ...]
    live: bool
    training: Training | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRow:
    incident: Incident
    release: Release | None

    @property
    def to_detect(self) -> timedelta:
        return self.incident.detected_at - self.incident.began_at

    @property
    def to_resolve(self) -> timedelta | None:
        resolved = self.incident.resolved_at
        return None if resolved is None else resolved - self.incident.detected_at


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorRow:
    name: str
    kind: str
    watches: str
    findings: int
    last: Finding | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTimeline:
    workspace: str
    model: str
    environment: str
    environments: tuple[str, ...]
    owner: str
    purpose: str
    type: str
    tier: int
    retrain: str
    begin: datetime
    end: datetime
    live: Release | None
    active: Release | None
    reason: str
    previous: Release | None
    series: Series | None
    spans: tuple[Span, ...]
    releases: tuple[Release, ...]
    versions: tuple[VersionRow, ...]
    incidents: tuple[IncidentRow, ...]
    monitors: tuple[MonitorRow, ...]
    challenger: int | None
    unreleased: tuple[tuple[int, str], ...]
    waivable: tuple[tuple[str, str], ...]


def model_timeline(
    tx: Transaction,
    access: Access,
    documents: Documents,
    workspace: str,
    name: str,
    *,
    now: datetime,
    environment: str = "",
) -> ModelTimeline:
    """Raises NotFound where there is no such model, or none the visitor may read."""
    if not access.allows(Permission.MODEL_READ, workspace):
        raise NotFound(f"there is no model {name} in workspace {workspace}")
    document = documents.model(tx, workspace, name)
    everything = tx.releases(workspace, name)
    environments = environments_of(tx, document, everything)
    if environment not in environments:
        environment = PREFERRED if PREFERRED in environments else (environments or (PREFERRED,))[-1]
    releases = [r for r in everything if r.environment == environment]
    live = routing.live(releases)
    windows = tx.evidence.windows(workspace, environment, name)
    incidents = [i for i in tx.incidents(workspace, name) if i.environment == environment]
    findings = tx.findings(workspace, name)
    begins = [*(r.opened_at for r in releases), *(w.start for w in windows), *(i.began_at for i in incidents)]
    challenger = tx.challenger(workspace, name, environment)
    active = routing.in_progress(releases)
    unreleased = [v for v in tx.versions(workspace, name) if not any(r.digest == v.digest for r in releases)]
    policy = document.spec.environments.get(environment, spec.EnvironmentPolicy())
    return ModelTimeline(
        workspace=workspace,
        model=name,
        environment=environment,
        environments=environments,
        owner=document.metadata.owner,
        purpose=document.spec.purpose,
        type=str(document.spec.type),
        tier=document.spec.tier,
        retrain=str(document.spec.retrain.mode),
        begin=min(begins, default=now - timedelta(days=1)),
        end=max(now, max(begins, default=now)),
        live=live,
        active=active,
        reason="" if active is None else standing(tx, documents, active, now=now).reason,
        previous=_before(releases, live),
        series=series(document, releases, windows),
        spans=spans(releases),
        releases=tuple(reversed(releases)),
        versions=_versions(tx, workspace, name, releases, live),
        incidents=tuple(
            IncidentRow(incident=i, release=next((r for r in everything if r.id == i.release), None))
            for i in reversed(incidents)
        ),
        monitors=_monitors(document, findings),
        challenger=challenger.version if challenger else None,
        unreleased=tuple((v.number, f"version {v.number}") for v in unreleased if v.retired_at is None)[::-1],
        waivable=_waivable(access, workspace, policy) if unreleased else (),
    )


def _waivable(access: Access, workspace: str, policy: spec.EnvironmentPolicy) -> tuple[tuple[str, str], ...]:
    """What a version on its way here may be let past, for those who may."""
    return tuple(waivable(policy).items()) if access.allows(Permission.RELEASE_WAIVE, workspace) else ()


def environments_of(tx: Transaction, document: spec.Model, releases: Sequence[Release]) -> tuple[str, ...]:
    """Declared ones and those that have releases, in their order."""
    names = {*document.spec.environments, *(release.environment for release in releases)}
    return in_order(tx, document.metadata.workspace, names)


def metric_of(document: spec.Model, windows: Sequence[Window]) -> str | None:
    """The metric a challenger is compared by, else the one performance is watched by, else the first the windows have."""
    measured = {metric for window in windows for metric in window.metrics}
    monitors = document.spec.monitors
    watched = [monitor.metric for monitor in monitors if isinstance(monitor, spec.ChallengerMonitor)]
    watched += [monitor.metric for monitor in monitors if isinstance(monitor, spec.PerformanceMonitor)]
    return next((metric for metric in [*watched, *sorted(measured)] if metric in measured), None)


def series(document: spec.Model, releases: Sequence[Release], windows: Sequence[Window]) -> Series | None:
    """The metric of whichever version was live in the middle of each window."""
    metric = metric_of(document, windows)
    if metric is None:
        return None
    points: list[Point] = []
    for window in windows:
        live = routing.live_at(releases, window.start + (window.end - window.start) / 2)
        if live is None or live.digest != window.digest or metric not in window.metrics or not window.labelled:
            continue
        recent = [(p.value, p.n) for p in points[-SMOOTHED_OVER + 1 :]] + [(window.metrics[metric], window.labelled)]
        points.append(
            Point(
                start=window.start,
                end=window.end,
                version=window.version,
                value=window.metrics[metric],
                mean=sum(value * n for value, n in recent) / sum(n for _, n in recent),
                n=window.labelled,
                n_mean=sum(n for _, n in recent),
            )
        )
    better = METRICS.get(metric, Direction.HIGHER) is Direction.HIGHER
    return Series(metric=metric, higher_is_better=better, points=tuple(points))


def spans(releases: Sequence[Release]) -> tuple[Span, ...]:
    """Who was live from when to when."""
    changes = sorted({at for r in releases if r.promoted_at for at in (r.promoted_at, r.degraded_at) if at})
    found: list[Span] = []
    for index, since in enumerate(changes):
        live = routing.live_at(releases, since)
        until = changes[index + 1] if index + 1 < len(changes) else None
        if live is not None and found and found[-1].release == live.id:
            found[-1] = replace(found[-1], until=until)  # what was taken back then was no longer live
        elif live is not None:
            found.append(
                Span(
                    version=live.version,
                    digest=live.digest,
                    release=live.id,
                    number=live.number,
                    since=since,
                    until=until,
                )
            )
    return tuple(found)


def _before(releases: Sequence[Release], live: Release | None) -> Release | None:
    """What a rollback would bring back: the promotion before the live one, of another version."""
    standing = routing.promoted(releases)
    return next((r for r in reversed(standing) if live is not None and r.digest != live.digest), None)


def _versions(
    tx: Transaction, workspace: str, name: str, releases: Sequence[Release], live: Release | None
) -> tuple[VersionRow, ...]:
    trainings = {training.version: training for training in tx.trainings(workspace, name)}
    return tuple(
        VersionRow(
            version=version,
            releases=tuple(r for r in releases if r.version == version.number),
            live=live is not None and live.digest == version.digest,
            training=trainings.get(version.number),
        )
        for version in reversed(tx.versions(workspace, name))
    )


def _monitors(document: spec.Model, findings: Sequence[Finding]) -> tuple[MonitorRow, ...]:
    rows = []
    for monitor in document.spec.monitors:
        found = [finding for finding in findings if finding.monitor == monitor.name]
        if isinstance(monitor, spec.DriftMonitor):
            kind, watches = "drift", f"inputs per window of {_days(monitor.window)}"
        elif isinstance(monitor, spec.PerformanceMonitor):
            kind, watches = "performance", f"{monitor.metric} per window of {_days(monitor.window)}"
        else:
            kind, watches = "challenger", f"{monitor.metric} in pairs, margin {monitor.margin:g}"
        rows.append(
            MonitorRow(
                name=monitor.name, kind=kind, watches=watches, findings=len(found), last=found[-1] if found else None
            )
        )
    return tuple(rows)


def _days(duration: timedelta) -> str:
    days = duration / timedelta(days=1)
    return f"{days:g} d" if days >= 1 else f"{days * 24:g} h"


def is_open(incident: Incident) -> bool:
    return incident.state is not IncidentState.CLOSED
