"""Which label belongs to which prediction.

A label names its prediction by event id; or it is about an entity at a time, where whoever knows the truth does not know
our ids ("flight N1 left late on the 3rd"). Then one rule decides:

    A label about (entity, time) belongs to the entity's latest answered prediction at or before that time, and to none
    if that one is older than the model's horizon. Of labels about several times that belong to one prediction, the one
    about the earliest time counts: it is the nearest.

"Answered" is what a caller got (stable or candidate, status 200); copies share the event's id and so its label. Of
several labels of one event, or about one (entity, time), the latest that arrived by `as_of` is the value: corrections are
versions. Feedback under a name of its own is no ground truth and is never read here.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

INSTANT = pl.Datetime("us", "UTC")

LABELS: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "at": INSTANT,
    "value": pl.Float64(),
    "source": pl.String(),
    "entity": pl.String(),
    "about": INSTANT,
    "name": pl.String(),
    "position": pl.Int64(),
}

KNOWN: dict[str, pl.DataType] = {"event_id": pl.String(), "label": pl.Float64(), "label_at": INSTANT}
"""What is known of events: the label, and when it arrived."""


def truth(labels: pl.LazyFrame, as_of: datetime) -> pl.LazyFrame:
    """Ground truth that had arrived by `as_of`, in the order of arrival."""
    return (
        labels.filter((pl.col("at") <= as_of) & pl.col("name").is_null())
        .select(
            "event_id", "entity", "about", pl.col("value").alias("label"), pl.col("at").alias("label_at"), "position"
        )
        .sort("label_at", "position", nulls_last=False)
    )


def of_events(arrived: pl.DataFrame) -> pl.DataFrame:
    """The latest label of each event that labels name; `arrived` is `truth`, collected."""
    named = arrived.filter(pl.col("event_id").is_not_null())
    return named.filter(pl.col("event_id").is_last_distinct()).select(*KNOWN)


def of_entities(arrived: pl.DataFrame, answered: pl.DataFrame, horizon: timedelta) -> pl.DataFrame:
    """The label of each event that labels about entities belong to, by the rule above.

    `answered` are the predictions callers got, in order of time: event_id, at, entity. It must hold those after the
    events in question too, up to the horizon, since a label belongs to the latest.
    """
    about = arrived.filter(pl.col("entity").is_not_null() & pl.col("about").is_not_null())
    about = about.filter(pl.struct("entity", "about").is_last_distinct()).drop("event_id")
    events = answered.filter(pl.col("entity").is_not_null()).filter(pl.col("event_id").is_first_distinct())
    return (
        about.sort("about")
        .join_asof(
            events.sort("at", maintain_order=True),
            left_on="about",
            right_on="at",
            by="entity",
            strategy="backward",
            tolerance=horizon,
            check_sortedness=False,
        )
        .filter(pl.col("event_id").is_not_null())
        .filter(pl.col("event_id").is_first_distinct())
        .select(*KNOWN)
    )


def united(by_event: pl.DataFrame, by_entity: pl.DataFrame) -> pl.DataFrame:
    """Both kinds; where an event has one of each, the later arrival counts."""
    both = pl.concat([by_entity, by_event]).sort("label_at", maintain_order=True)
    return both.filter(pl.col("event_id").is_last_distinct())
