"""Labels as they arrive: what turned out to be true of an event, or of an entity at a time; and feedback beside it.

Nothing is overwritten: a label that comes late or corrects another is one more record, and readers take the latest that
had arrived by the moment they ask about.
"""

from __future__ import annotations

import math
import time

from steersman.dataplane import protocol, routing
from steersman.dataplane.arms import CompiledRoute
from steersman.dataplane.capture import Labels
from steersman.dataplane.configuration import LabelSettings
from steersman.dataplane.protocol import EnvelopeError, Label


def record_of(
    compiled: CompiledRoute, settings: LabelSettings, body: bytes, *, arrival_us: int | None, replay: bool
) -> Labels:
    """One call's labels as a record of the log. `arrival_us` is their event time, None outside of a replay: now.

    Raises EnvelopeError.
    """
    request = protocol.decode_labels(body)
    labels, route = request.labels, compiled.route
    ats_us = [_arrival(label.at, arrival_us, replay) for label in labels]
    values = [_value(label, settings) for label in labels]
    about_entities = any(label.entity is not None for label in labels)
    return Labels(
        workspace=route.workspace,
        model=route.model,
        source=request.source,
        event_ids=[label.event_id for label in labels],
        ats_us=ats_us,
        values=values,
        entities=[_entity(compiled, label) for label in labels] if about_entities else [],
        abouts_us=[0 if label.time is None else protocol.parse_instant(label.time) for label in labels]
        if about_entities
        else [],
        names=[label.name for label in labels] if any(label.name for label in labels) else [],
    )


def _arrival(at: str | None, arrival_us: int | None, replay: bool) -> int:
    if at is None:
        if arrival_us is not None:
            return arrival_us
        if replay:
            raise EnvelopeError("labels: this installation replays: the event time is missing; send X-Event-Time")
        return time.time_ns() // 1000
    if not replay:
        raise EnvelopeError("labels: `at` is accepted in a replay only")
    return protocol.parse_instant(at)


def _value(label: Label, settings: LabelSettings) -> float:
    """The label's value; the bounds are those of the ground truth, not of feedback."""
    value = float(label.value)
    if not math.isfinite(value):
        raise EnvelopeError("labels: a value is not finite")
    low, high = settings.value_min, settings.value_max
    if not label.name and ((low is not None and value < low) or (high is not None and value > high)):
        raise EnvelopeError(f"labels: the value {value:g} is outside {low}..{high}")
    return value


def _entity(compiled: CompiledRoute, label: Label) -> str:
    """The entity as the log has it, hashed where its column is; empty for a label about an event."""
    if label.entity is None:
        return ""
    sticky_by = compiled.route.sticky_by
    if sticky_by is None:
        raise EnvelopeError("labels: the model has no entity (`stickyBy`); send event ids")
    entity = routing.entity_text(label.entity)
    return entity if compiled.redactor is None else compiled.redactor.entity(sticky_by, entity)
