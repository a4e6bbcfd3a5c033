"""What is watched after the release, what happens when it goes wrong, and when a model is trained again.

Three kinds of evidence, because none suffices alone: the inputs change long before labels arrive (drift), the labels
show the loss that was suffered (performance), and a freshly trained version on the same traffic shows the loss that
could have been avoided (challenger).
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import msgspec

from steersman.domain.spec.delivery import BLOCKS_MIN_DEFAULT, MARGIN_DEFAULT
from steersman.domain.spec.parts import Column, Duration, DurationOrZero, Metric, Name, Part, Text

REFERENCE_WINDOWS = 14
"""First matured windows of a version that say what performance is usual for it."""


class DriftMonitor(Part, frozen=True, kw_only=True, tag_field="kind", tag="drift"):
    """Do the inputs still look like those the version was trained or released on?"""

    name: Name
    window: Duration = timedelta(days=1)
    """The same for all monitors of a model."""
    segments: Annotated[tuple[Column, ...], msgspec.Meta(max_length=10)] = ()
    """Columns whose values are watched one by one as well. Refused in this version."""
    columns: Annotated[tuple[Column, ...], msgspec.Meta(max_length=500)] = ()
    """Columns watched; empty: all of the signature."""
    false_alarm_every: Duration = timedelta(days=365)
    """Mean time between false alarms while nothing changes; thresholds follow from it."""


class PerformanceMonitor(Part, frozen=True, kw_only=True, tag_field="kind", tag="performance"):
    """Is the metric on matured labels worse than it was when the version was released?"""

    name: Name
    metric: Metric
    window: Duration = timedelta(days=1)
    """The same for all monitors of a model."""
    segments: Annotated[tuple[Column, ...], msgspec.Meta(max_length=10)] = ()
    """Refused in this version."""
    false_alarm_every: Duration = timedelta(days=365)


class ChallengerMonitor(Part, frozen=True, kw_only=True, tag_field="kind", tag="challenger"):
    """Has production fallen behind a freshly trained version, scored on the same traffic in the shadow?"""

    name: Name
    metric: Metric
    block: Duration = timedelta(days=1)
    blocks_min: Annotated[int, msgspec.Meta(ge=2, le=1000)] = BLOCKS_MIN_DEFAULT
    margin: Annotated[float, msgspec.Meta(ge=0.0)] = MARGIN_DEFAULT
    """A finding when the challenger is better by at least this, in the metric's own unit."""
    alpha: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.05
    refresh: Duration = timedelta(days=28)
    """A new challenger is trained this often."""


Monitor = DriftMonitor | PerformanceMonitor | ChallengerMonitor


class Incidents(Part, frozen=True, kw_only=True):
    """What a finding leads to besides a record."""

    rollback_when: Name | None = None
    """The monitor whose finding during Verifying brings the replaced version back, once the pairs of the bake say that it
    is surely better."""
    notify: Annotated[tuple[Text, ...], msgspec.Meta(max_length=20)] = ()
    """Channels that are told of each incident: names given to `steersman up --notify`."""


class RetrainMode(StrEnum):
    """How far a retraining goes without a person."""

    OFF = "off"
    PROPOSE = "propose"
    """The incident proposes it; a person starts it. Refused in this version."""
    REGISTER = "register"
    """Train and register; a person releases."""
    AUTO = "auto"
    """Train, register, and release through the same gates and steps, within the envelope."""


class Algorithm(StrEnum):
    """Whether an automatic release may come from another learning algorithm than production's."""

    SAME = "same"
    ANY = "any"


class Envelope(Part, frozen=True, kw_only=True):
    """The change an automatic retraining may release by itself; outside of it, its release waits for an approval."""

    max_metric_drop: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """Outside when a gate's comparison with production on the holdout says that the metric is surely worse by more than
    this: the lower bound counts, because an estimate above zero is half of the time noise."""
    algorithm: Algorithm = Algorithm.SAME
    """`same`: outside when the version's format is another one than production's."""


class Retrain(Part, frozen=True, kw_only=True):
    """When a model is trained again because of an incident."""

    mode: RetrainMode = RetrainMode.OFF
    on: Annotated[tuple[Name, ...], msgspec.Meta(max_length=20)] = ()
    """Monitors whose findings trigger it."""
    cooldown: DurationOrZero = timedelta(days=7)
    """Least time between two starts."""
    envelope: Envelope = Envelope()
