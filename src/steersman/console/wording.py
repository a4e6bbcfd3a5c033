"""How numbers, times and states are written on a page: one place, so that the same thing reads the same everywhere.

Times are UTC and event time unless a page says otherwise; a number comes with its unit, an estimate with its n.
"""

from datetime import UTC, datetime, timedelta

from steersman.decide.explaining import Reason
from steersman.domain.incident import IncidentKind, IncidentState
from steersman.domain.release import Completion, Phase, Release
from steersman.domain.verdicts import Outcome

NOTHING = "–"
"""Shown where nothing was measured or nothing applies; never a zero."""

KINDS: dict[IncidentKind, str] = {
    IncidentKind.DRIFT: "inputs drifted",
    IncidentKind.PERFORMANCE: "performance fell",
    IncidentKind.CHALLENGER: "fallen behind a fresh version",
    IncidentKind.RELEASE: "a release failed",
}

TONES: dict[str, str] = {
    Completion.PROMOTED: "good",
    Completion.FAST_PROMOTED: "good",
    Completion.ABORTED: "bad",
    Completion.ROLLED_BACK: "bad",
    Completion.FAST_ROLLED_BACK: "warn",
    Completion.SUPERSEDED: "quiet",
    Phase.PENDING: "busy",
    Phase.PROGRESSING: "busy",
    Phase.PAUSED: "wait",
    Phase.DEGRADED: "bad",
    Phase.VERIFYING: "busy",
    Phase.HEALTHY: "good",
    Outcome.SUCCESSFUL: "good",
    Outcome.FAILED: "bad",
    Outcome.INCONCLUSIVE: "unsure",
    Outcome.ERROR: "bad",
    IncidentState.OPEN: "bad",
    IncidentState.REMEDYING: "busy",
    IncidentState.RECOVERING: "busy",
    IncidentState.CLOSED: "good",
    Reason.QUEUED: "wait",
    Reason.FROZEN: "wait",
    Reason.BUDGET_USED_UP: "wait",
    Reason.LABELS_AWAITED: "wait",
    Reason.SPLIT_DOUBTED: "warn",
}
"""Tone of a state: it chooses the mark and the colour beside the word, and never stands alone."""

if missing := {*KINDS} ^ {*IncidentKind}:
    raise ImportError(f"incident kinds without words in steersman.console.wording: {missing}")


def tone(state: object) -> str:
    return TONES.get(str(state), "quiet")


def state_of(release: Release) -> str:
    """The word a release is shown under: how it ended, else where it is."""
    return str(release.completion or release.phase)


def tone_of(release: Release, reason: str) -> str:
    """The tone of a release's standing: that of the reason where it has one of its own, else that of its state."""
    return TONES.get(reason) or tone(state_of(release))


def moment(at: datetime | None) -> str:
    return NOTHING if at is None else f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def day(at: datetime | None) -> str:
    return NOTHING if at is None else f"{at.astimezone(UTC):%-d %b %Y}"


def short_day(at: datetime | None) -> str:
    return NOTHING if at is None else f"{at.astimezone(UTC):%-d %b}"


def machine(at: datetime | None) -> str:
    """For the `datetime` attribute of a `time` element."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def span(duration: timedelta | None) -> str:
    """At most two units: `12 d`, `3 d 4 h`, `20 min`."""
    if duration is None:
        return NOTHING
    seconds = int(duration.total_seconds())
    if seconds < 60:
        return f"{max(seconds, 0)} s"
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes = rest // 60
    if days >= 10 or (days and not hours):
        return f"{days} d"
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min"


def figure(value: float | None, digits: int = 3) -> str:
    """A measured number with a true minus sign."""
    return NOTHING if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 4) -> str:
    return NOTHING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def count(value: int | None) -> str:
    """Thousands apart by a thin space, as in 284 821."""
    return NOTHING if value is None else f"{value:,}".replace(",", "\u202f")


def counted(value: int, one: str, many: str = "") -> str:
    """`1 release`, `12 releases`."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def amount(value: int, unit: str) -> str:
    """A count with its unit, which is kept in the plural: `14 days`, `1 day`."""
    return f"{count(value)} {unit.removesuffix('s') if value == 1 and unit != 'entities' else unit}"


def size(count_bytes: int) -> str:
    if count_bytes < 1_000_000:
        return f"{count_bytes / 1_000:.0f} kB"
    return f"{count_bytes / 1_000_000:.1f} MB"


def brief_digest(digest: str | None) -> str:
    """The first twelve digits: enough to tell versions apart by eye, never enough to decide on."""
    return NOTHING if not digest else digest.removeprefix("sha256:")[:12]


def sentence(text: str) -> str:
    """A reason as the beginning of a paragraph; a name at its beginning (`roc_auc: …`, `models:/…`) stays as it is."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.rstrip(".,;").isalpha() else text
