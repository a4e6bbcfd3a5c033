"""Whether a release may start or go on now: freeze periods, once or again and again. A rollback never asks."""

from datetime import datetime

from steersman.domain import spec
from steersman.domain.cron import last_firing, parse_cron, zone_of


def frozen(policy: spec.EnvironmentPolicy, environment: spec.EnvironmentSpec, now: datetime) -> str | None:
    """Why nothing may start now but a rollback or a hotfix; of several periods the one that ends last."""
    active = [(until, freeze) for freeze in (*policy.freeze, *environment.freeze) if (until := _until(freeze, now))]
    if not active:
        return None
    until, freeze = max(active, key=lambda found: found[0])
    return f"frozen until {until.isoformat()}: {freeze.reason}"


def _until(freeze: spec.Freeze, now: datetime) -> datetime | None:
    """When the period that is in force ends; None where none is."""
    if freeze.cron is not None and freeze.duration is not None:
        began = last_firing(parse_cron(freeze.cron), zone_of(freeze.time_zone), now, within=freeze.duration)
        return None if began is None else began + freeze.duration
    if freeze.starts_at is None or freeze.ends_at is None:
        return None  # such a document is refused
    return freeze.ends_at if freeze.starts_at <= now < freeze.ends_at else None
