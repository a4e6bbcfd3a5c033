"""Predictions and labels: columns to the Open Inference Protocol (v2, JSON) and back.

A request carries columns, as data people have them, and one event id a row, on which labels join weeks later. Which
version answered each row, and in which role, comes back with the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steersman.client.connection import segment
from steersman.client.traffic import Prepared
from steersman.domain.errors import BadRequest

ROWS_MAX = 100_000
"""Most rows of one request; the router refuses more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What turned out to be true of one event. `at` is its arrival in event time, for a replay only."""

    event_id: str
    value: float
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answers to one request, row by row in the order asked."""

    version: str
    """The version, or several joined by a comma while a release splits the traffic."""
    event_ids: tuple[str, ...]
    variants: tuple[str, ...]
    outputs: dict[str, list[Any]]

    @property
    def scores(self) -> list[Any]:
        """The first output."""
        return next(iter(self.outputs.values()), [])


def split_reference(model: str, workspace: str = "default") -> tuple[str, str]:
    """Workspace and name of `ops/flight-delay`, or of a bare name in `workspace`."""
    parts = model.split("/")
    if len(parts) > 2 or not all(parts):
        raise BadRequest(f"{model!r} is not a model", next_step="Write MODEL or WORKSPACE/MODEL.")
    return (parts[0], parts[1]) if len(parts) == 2 else (workspace, parts[0])


def prepare_prediction(
    model: str,
    inputs: Mapping[str, Sequence[Any]],
    *,
    event_ids: Sequence[str] | None = None,
    at: datetime | None = None,
    environment: str = "production",
    workspace: str = "default",
    datatypes: Mapping[str, str] | None = None,
) -> Prepared:
    """The request for one batch of rows, one sequence a column, all of one length; None is a missing value.

    `datatypes` overrides what is guessed from the values (`FP64`, `INT64`, `BOOL`, `BYTES`); a column that may be all
    missing should be named there. `at` sets event time, which only an installation in replay accepts.
    """
    workspace, name = split_reference(model, workspace)
    columns = {column: _plain(values) for column, values in inputs.items()}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or not 0 < (rows := lengths.pop()) <= ROWS_MAX:
        raise BadRequest(f"inputs must be columns of one length within 1..{ROWS_MAX}")
    if event_ids is not None and len(event_ids) != rows:
        raise BadRequest(f"event_ids must be one a row: {len(event_ids)} for {rows} rows")
    tensors = [
        {
            "name": column,
            "datatype": (datatypes or {}).get(column) or _datatype(values),
            "shape": [rows],
            "data": values,
        }
        for column, values in columns.items()
    ]
    body: dict[str, Any] = {"inputs": tensors}
    if event_ids is not None:
        body["parameters"] = {"event_ids": list(event_ids)}
    path = f"/{segment(workspace)}/{segment(environment)}/v2/models/{segment(name)}/infer"
    return Prepared(path=path, body=_encode(body), at=at)


def read_prediction(body: bytes) -> Prediction:
    """The router's answer as a `Prediction`."""
    answer = json.loads(body)
    parameters = answer.get("parameters") or {}
    return Prediction(
        version=str(answer.get("model_version", "")),
        event_ids=tuple(parameters.get("event_ids", ())),
        variants=tuple(parameters.get("variants", ())),
        outputs={output["name"]: output["data"] for output in answer.get("outputs", ())},
    )


def prepare_labels(
    model: str, labels: Mapping[str, float] | Iterable[Label], *, at: datetime | None = None, workspace: str = "default"
) -> Prepared:
    """The request that reports what turned out to be true, by event id. A later label of an event corrects it."""
    workspace, name = split_reference(model, workspace)
    if isinstance(labels, Mapping):
        labels = [Label(event_id=event_id, value=value) for event_id, value in labels.items()]
    written: list[dict[str, Any]] = []
    for label in labels:
        item: dict[str, Any] = {"event_id": label.event_id, "value": label.value}
        if (moment := label.at or at) is not None:
            item["at"] = rfc3339(moment)
        written.append(item)
    return Prepared(path=f"/{segment(workspace)}/labels/{segment(name)}", body=_encode({"labels": written}), at=None)


def rfc3339(moment: datetime) -> str:
    """Times travel as aware UTC; a naive one is refused rather than guessed."""
    if moment.tzinfo is None:
        raise BadRequest(f"a time needs its zone, got {moment.isoformat()}", next_step="Use aware datetimes in UTC.")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(values: Sequence[Any]) -> list[Any]:
    """A list, also from arrays and series, with NaN as None: JSON knows no NaN."""
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    return [None if isinstance(value, float) and value != value else value for value in plain]


def _datatype(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} and kinds:
        return "BOOL"
    if kinds <= {int} and kinds:
        return "INT64"
    return "FP64" if kinds <= {int, float} else "BYTES"


def _encode(body: object) -> bytes:
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise BadRequest(
            f"a value cannot be sent: {error}", next_step="Send numbers, booleans, text and None."
        ) from None
