"""An inference log for tests, filled without router or workers: records go to the write-ahead log, `commit` to the tables.

written = Written(folder)
written.predict(["e1"], written.day(0), [0.25], who=["N1"])
written.label("e1", 1.0, written.day(1))
written.commit()
rows = written.log.scored_rows(SCOPE, ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from steersman.dataplane.capture import Labels, Prediction, SegmentWriter, context_of
from steersman.dataplane.committer import Committer
from steersman.dataplane.configuration import Column, Route
from steersman.dataplane.storage import Storage
from steersman.plugins.tables.delta import DeltaInferenceLog, EntityHorizon, events_only
from steersman.ports import Scope
from steersman.testing.plane import tensor

SCOPE = Scope("ops", "production", "m")
START = datetime(2013, 3, 1, tzinfo=UTC)

CONTEXT = context_of(
    Route(
        workspace="ops",
        environment="production",
        model="m",
        salt="s",
        sticky_by="who",
        signature=(Column(name="x", type="FP64"), Column(name="origin", type="BYTES")),
    )
)


def us(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000 + at.microsecond


class Written:
    """A state directory, with a writer and a committer in this process, and the log that reads it."""

    def __init__(
        self, state: Path, storage: Storage | None = None, *, entity_horizon: EntityHorizon = events_only
    ) -> None:
        self.state = state
        self.writer = SegmentWriter(state / "wal", "router-0")
        self.committer = Committer(state, storage)
        self.log = DeltaInferenceLog(state, storage, entity_horizon=entity_horizon)

    @staticmethod
    def day(number: int, hours: float = 0) -> datetime:
        return START + timedelta(days=number, hours=hours)

    def predict(
        self,
        ids: list[str],
        at: datetime,
        scores: list[float],
        *,
        who: Sequence[str] | None = None,
        digest: str = "a",
        variant: str = "stable",
        status: int = 200,
        request_id: str = "",
        latency_ms: float = 1.0,
        probability: float | None = 1.0,
        trace_id: str | None = None,
    ) -> None:
        """One version's answer to a request; `x` of a row is the length of its id."""
        outputs = [{"name": "score", "datatype": "FP64", "shape": [len(ids)], "data": scores}]
        inputs = [tensor("x", [float(len(one)) for one in ids]), tensor("origin", ["JFK" for _ in ids])]
        if who is not None:
            inputs.append(tensor("who", who))
        record = Prediction(
            context=CONTEXT.id,
            at_us=us(at),
            version="1",
            digest=digest,
            release="r",
            variant=variant,
            probability=probability,
            request_id=request_id or ids[0],
            event_ids=ids,
            request=msgspec.json.encode({"inputs": inputs}),
            outputs=msgspec.json.encode(outputs) if status == 200 else b"",
            status=status,
            error=None,
            latency_ms=latency_ms,
            trace_id=trace_id,
        )
        self.writer.append(CONTEXT, record)

    def label(self, event_id: str, value: float, at: datetime, *, name: str = "") -> None:
        names = [name] if name else []
        self.writer.append(None, Labels("ops", "m", "api", [event_id], [us(at)], [value], names=names))

    def label_entity(self, entity: str, about: datetime, value: float, at: datetime) -> None:
        """What turned out true of an entity at a time."""
        record = Labels("ops", "m", "api", [""], [us(at)], [value], entities=[entity], abouts_us=[us(about)])
        self.writer.append(None, record)

    def commit(self) -> int:
        return self.committer.commit_all()
