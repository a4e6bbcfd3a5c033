"""Rows of the predictions table as evidence about two versions: in pairs, or as the router split them.

A version's outcome for an event is its first good answer, and *failed* if any of its answers was 500 or above (a caller may
ask again). In a split the *draw* decides to whom an event belongs: its first row with a probability strictly between 0
and 1. What came of it counts for that version even where another one had to answer in its place, or a candidate that
fails on hard requests would be compared on the easy ones only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from steersman.ports import Answers, Comparison, PairedRows, SplitRows

COLUMNS = ("event_id", "at", "digest", "variant", "probability", "entity", "score", "status", "latency_ms")
"""What is read of each row; inputs too where slices or declared metrics are asked for."""

FAILED_FROM = 500

_PROBE = {"score": [0.1], "label": [1.0]}
"""A row on which a declared metric of these two columns is tried."""


def paired_rows(rows: pl.DataFrame, labels: pl.DataFrame, asked: Comparison) -> PairedRows:
    """Events with rows of both digests; `rows` has `COLUMNS` (and `inputs`), `labels` event_id and label."""
    outcomes = _outcomes(rows).join(labels.select("event_id", "label"), on="event_id", how="left")
    one = outcomes.filter(pl.col("digest") == asked.reference)
    other = outcomes.filter(pl.col("digest") == asked.compared)
    both = one.select("event_id", "at").join(other.select("event_id"), on="event_id").sort("at", "event_id")
    order = both.select("event_id")
    one = order.join(one, on="event_id", how="left", maintain_order="left")
    other = order.join(other, on="event_id", how="left", maintain_order="left")
    return PairedRows(
        events=one["event_id"].to_list(),
        labels=_floats(one["label"]),
        reference=_answers(one, asked.measures),
        compared=_answers(other, asked.measures),
        slices=_slices(one, asked.slices),
    )


def split_rows(rows: pl.DataFrame, labels: pl.DataFrame, asked: Comparison, *, drawn_before: pl.Series) -> SplitRows:
    """Events by the version they were drawn for; `drawn_before` are the entities that counted already."""
    draws = rows.filter(drawn()).filter(pl.col("event_id").is_first_distinct())
    draws = draws.select("event_id", "at", "digest", "probability", unit())
    draws = draws.with_columns(candidate=pl.col("digest") == asked.compared)
    chance = pl.when(pl.col("candidate")).then(pl.col("probability")).otherwise(1.0 - pl.col("probability"))
    draws = draws.with_columns(probability=chance.round(9)).sort("at", "event_id")
    draws = draws.join(drawn_before.alias("unit").to_frame(), on="unit", how="anti", maintain_order="left")
    # A unit that was drawn anew within the block (the weight was changed) counts as it was drawn first.
    first = [pl.col(name).first().over("unit") for name in ("candidate", "probability")]
    draws = draws.filter((pl.col("candidate") == first[0]) & (pl.col("probability") == first[1]))
    outcomes = _outcomes(rows).drop("at")
    found = (
        draws.join(outcomes, on=["event_id", "digest"], how="left", maintain_order="left")
        .join(labels.select("event_id", "label"), on="event_id", how="left", maintain_order="left")
        .sort("at", "event_id")
    )
    return SplitRows(
        events=found["event_id"].to_list(),
        units=found["unit"].to_list(),
        candidate=found["candidate"].to_numpy(),
        probability=found["probability"].to_numpy(),
        labels=_floats(found["label"]),
        answers=_answers(found, asked.measures),
        slices=_slices(found, asked.slices),
    )


def drawn() -> pl.Expr:
    """Rows that the router gave to their version by lot: not all of the traffic, not asked for by number, no fallback."""
    return (pl.col("probability") > 0.0) & (pl.col("probability") < 1.0)


def unit() -> pl.Expr:
    """What is drawn: the entity where the model is sticky, else the event."""
    return pl.coalesce("entity", "event_id").alias("unit")


def refuse_measure(expression: str) -> str | None:
    """Why Polars does not take an SQL expression as a number; None where it does.

    Input columns are known to the versions and not here: one that is misspelt shows itself when it is measured.
    """
    try:
        expr = pl.sql_expr(expression)
        if set(expr.meta.root_names()) <= set(_PROBE):
            pl.DataFrame(_PROBE).select(expr.cast(pl.Float64))
    except pl.exceptions.PolarsError as error:
        return f"no SQL expression of a number: {_first_line(error)}"
    return None


def _outcomes(rows: pl.DataFrame) -> pl.DataFrame:
    """One row an (event, digest), in order of time: its first good answer, and whether one of its answers failed."""
    good = pl.col("status") == 200
    first = [pl.col("at").first(), *([pl.col("inputs").first()] if "inputs" in rows.columns else [])]
    return rows.group_by("event_id", "digest", maintain_order=True).agg(
        *first,
        pl.col("score").filter(good).first(),
        (pl.col("status") >= FAILED_FROM).any().alias("failed"),
        pl.col("latency_ms").filter(good).first(),
    )


def _answers(found: pl.DataFrame, measures: Mapping[str, str]) -> Answers:
    measured: dict[str, Any] = {}
    for name, expression in measures.items():
        values = _measured(found, expression)
        if values is not None:
            measured[name] = values
    return Answers(
        scores=_floats(found["score"]),
        failed=found["failed"].fill_null(value=False).to_numpy(),
        latency_ms=_floats(found["latency_ms"]),
        measured=measured,
    )


def _measured(found: pl.DataFrame, expression: str) -> Any:
    """The expression's value of each row; NaN where the version gave no score; None where it cannot be evaluated."""
    own = found.select("score", "label")
    inputs = _inputs(found)
    frame = own if inputs is None else own.hstack(inputs.drop("score", "label", strict=False))
    expr = pl.sql_expr(expression)
    try:
        values = frame.select(pl.lit(0.0).alias("0"), expr.cast(pl.Float64).alias("value"))["value"]
    except pl.exceptions.PolarsError:
        return None
    array = _floats(values)
    return np.where(np.isfinite(array) & ~np.isnan(_floats(found["score"])), array, np.nan)


def _inputs(found: pl.DataFrame) -> pl.DataFrame | None:
    if "inputs" not in found.columns or not found["inputs"].dtype.fields:  # type: ignore[attr-defined]
        return None
    return found["inputs"].struct.unnest()


def _slices(found: pl.DataFrame, slices: Sequence[str]) -> dict[str, Any]:
    inputs = _inputs(found)
    if inputs is None:
        return {}
    named = [name for name in slices if name in inputs.columns]
    return {name: inputs[name].cast(pl.String()).fill_null("null").to_numpy() for name in named}


def _floats(column: pl.Series) -> Any:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
