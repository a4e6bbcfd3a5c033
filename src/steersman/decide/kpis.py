"""The figures a team is measured by, each with its counts.

Automated share, time to detect, time to resolve, how often models are retrained and how often that succeeds. All come
from recorded releases, incidents and trainings; a ratio travels with its two counts, a duration with its n, and what
does not exist yet (no incident resolved) is None and not zero.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from steersman.domain.incident import Incident, Purpose, Training
from steersman.domain.release import Release
from steersman.stats.sequences import clopper_pearson_interval

MONTH = timedelta(days=30)
"""What "per month" means here; calendar months would make February the best month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`part` of `whole`; the interval is Clopper and Pearson's with 95 %."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """The share as a fraction, None of nothing."""
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the underlying rate; 0..1 of nothing."""
        bounds = clopper_pearson_interval(self.part, self.whole)
        return bounds.lower, bounds.upper


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long something took, over n cases; None without any."""

    n: int
    median: timedelta | None
    longest: timedelta | None
    open: int  # cases that have not come to it yet and are not among the n


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrainings:
    """How often models were retrained in a span of event time, and how many of the finished ones were promoted."""

    started: int
    running: int
    span: timedelta
    promoted: Share

    @property
    def per_month(self) -> float | None:
        """Starts in thirty days; None for an empty span."""
        return self.started / (self.span / MONTH) if self.span > timedelta(0) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kpis:
    """All of them, for one model or many, over one span."""

    automated: Share
    detect: Durations
    resolve: Durations
    retrainings: Retrainings


def measure(
    *,
    releases: Sequence[Release],
    manual_changes: int,
    incidents: Sequence[Incident],
    trainings: Sequence[Training],
    since: datetime,
    until: datetime,
) -> Kpis:
    """All figures from records that are already limited to the wished models and span (event time)."""
    return Kpis(
        automated=automated_share(releases, manual_changes=manual_changes),
        detect=time_to_detect(incidents),
        resolve=time_to_resolve(incidents),
        retrainings=retrainings(trainings, releases, since=since, until=until),
    )


def automated_share(releases: Sequence[Release], *, manual_changes: int) -> Share:
    """Changes of production that went through a release: promoted ones of those plus the manual changes observed.

    A release counts once it was promoted, even if it was rolled back later: production did change by it. A refused
    attempt is no change and belongs in neither count.
    """
    if manual_changes < 0:
        raise ValueError(f"manual_changes must not be negative, got {manual_changes}")
    promoted = sum(release.promoted_at is not None for release in releases)
    return Share(part=promoted, whole=promoted + manual_changes)


def time_to_detect(incidents: Sequence[Incident]) -> Durations:
    """From when the evidence says it began to when a monitor said so."""
    return _durations([incident.detected_at - incident.began_at for incident in incidents], still_open=0)


def time_to_resolve(incidents: Sequence[Incident]) -> Durations:
    """From detection to verified recovery; incidents still open are counted apart, not left out silently."""
    spans = [incident.resolved_at - incident.detected_at for incident in incidents if incident.resolved_at is not None]
    return _durations(spans, still_open=len(incidents) - len(spans))


def retrainings(
    trainings: Sequence[Training], releases: Sequence[Release], *, since: datetime, until: datetime
) -> Retrainings:
    """Retrainings caused by incidents (challengers are trained for comparison and do not count).

    A finished one succeeded when its version was promoted in any release.
    """
    if until < since:
        raise ValueError(f"the span ends at {until:%Y-%m-%d}, before it begins at {since:%Y-%m-%d}")
    caused = [training for training in trainings if training.purpose is Purpose.RETRAIN]
    finished = [training for training in caused if training.finished_at is not None]
    promoted = {
        (release.workspace, release.model, release.version) for release in releases if release.promoted_at is not None
    }
    succeeded = sum((training.workspace, training.model, training.version) in promoted for training in finished)
    return Retrainings(
        started=len(caused),
        running=len(caused) - len(finished),
        span=until - since,
        promoted=Share(part=succeeded, whole=len(finished)),
    )


def _durations(spans: Sequence[timedelta], *, still_open: int) -> Durations:
    if any(span < timedelta(0) for span in spans):
        raise ValueError("an incident cannot be detected before it began or resolved before it was detected")
    if not spans:
        return Durations(n=0, median=None, longest=None, open=still_open)
    seconds = statistics.median(span.total_seconds() for span in spans)
    return Durations(n=len(spans), median=timedelta(seconds=seconds), longest=max(spans), open=still_open)
