"""How an entry about a release is named, for everyone who writes one."""

from datetime import datetime

from steersman.domain.events import Action, Event
from steersman.domain.release import Release


def release_event(
    release: Release, action: Action, *, at: datetime, actor: str, because: str, data: dict[str, object] | None = None
) -> Event:
    """An entry about a release, under the name people use for it."""
    return Event(
        action=action,
        at=at,
        actor=actor,
        workspace=release.workspace,
        kind="release",
        name=f"{release.model}/{release.environment}/{release.number}",
        because=because,
        data=dict(data or {}),
    )
