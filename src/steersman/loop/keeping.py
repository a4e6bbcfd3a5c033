"""Lets the inference log forget: once a day of event time, what is older than a model's retention is deleted for good.

Whole UTC dates go, once their last moment is older than the retention: a row lives at most a day longer. The mark of how
far a model's log was cleared is written together with the ledger's entry, after the deletion; a crash in between repeats
the deletion under the same key, and the log then tells what both attempts removed.
"""

from datetime import UTC, date

import msgspec

from steersman.domain import spec
from steersman.domain.durations import format_duration
from steersman.domain.events import Action, Event
from steersman.loop.isolation import every
from steersman.loop.world import Documents, World

RETENTION = "retention"
"""Under which name the mark is kept, beside those of the monitors."""

ALL_ENVIRONMENTS = "*"


class Cleared(msgspec.Struct, frozen=True, kw_only=True):
    """Dates before `until` are gone."""

    until: date


class Keeping:
    """The retention of every model of an installation."""

    def __init__(self, world: World, documents: Documents) -> None:
        self._world = world
        self._documents = documents

    def turn(self) -> bool:
        """One pass; True if anything was written. Raises LogError when the log cannot be cleared now."""
        with self._world.store.read() as tx:
            models = [m for m in self._documents.models(tx) if m.spec.inference_log.retention is not None]
        return every(models, self._clear)

    def _clear(self, model: spec.Model) -> bool:
        retention = model.spec.inference_log.retention
        assert retention is not None
        workspace, name = model.metadata.workspace, model.metadata.name
        now = self._world.clock.now()
        until = (now - retention).astimezone(UTC).date()
        with self._world.store.read() as tx:
            cleared = tx.monitor_state(workspace, name, ALL_ENVIRONMENTS, RETENTION, Cleared)
        if cleared is not None and until <= cleared.until:
            return False
        removed = self._world.log.expire(f"{workspace}/{name}/{until}", workspace, name, until=until)
        with self._world.store.write() as tx:
            tx.put_monitor_state(workspace, name, ALL_ENVIRONMENTS, RETENTION, Cleared(until=until))
            if removed.predictions or removed.labels or removed.segments:
                tx.append(
                    Event(
                        action=Action.LOG_EXPIRED,
                        at=now,
                        actor="system",
                        workspace=workspace,
                        kind="model",
                        name=name,
                        because=f"older than {format_duration(retention)}: all rows before {until}, and their files",
                        data={
                            "until": until.isoformat(),
                            "predictions": removed.predictions,
                            "labels": removed.labels,
                            "segments": removed.segments,
                        },
                    )
                )
        return True
