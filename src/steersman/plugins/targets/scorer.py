"""A version's answers on given rows, for gates on a holdout.

The rows go to a running worker, by the same protocol and through the same code as traffic will, so that a gate judges
the replica that would serve and not a second way to load a model. They do not pass the router: they are no traffic, and
nothing of them is in the inference log.
"""

from __future__ import annotations

import http.client
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import polars as pl

from steersman.dataplane import protocol, sockets
from steersman.dataplane.protocol import EnvelopeError, Tensor
from steersman.domain.errors import BadRequest, Unavailable

CHUNK_ROWS_MAX = 5_000
"""Rows of one request: at 20 columns about 1 MB of JSON and some 50 ms of a worker's time."""

TIMEOUT_S = 60.0

WARM_UP = 20
"""Predictions before the first that counts: connection, caches, and whatever a library does at its first row."""

VARIANT = "mirror"
"""What the worker is told: a copy whose answer no caller gets."""

_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


class WorkerScorer:
    """Asks a worker at `host:port`."""

    def __init__(self, *, chunk_rows: int = CHUNK_ROWS_MAX, timeout_s: float = TIMEOUT_S) -> None:
        self._chunk_rows = min(chunk_rows, CHUNK_ROWS_MAX)
        self._timeout_s = timeout_s

    def score(self, address: str, model: str, rows: Path, columns: Sequence[str]) -> Sequence[float]:
        """The version's score for each row of a Parquet file, in order; NaN where it gave none.

        A score is the first output. Raises BadRequest when the rows are not the version's (a column is missing, of
        another type) or its output is not one number a row, Unavailable when the worker does not answer or fails.
        """
        frame = _read(rows, columns)
        connection = sockets.connection_to(address, timeout_s=self._timeout_s)
        scores: list[float] = []
        try:
            for chunk in frame.iter_slices(self._chunk_rows):
                scores.extend(_ask(connection, model, chunk))
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the worker of {model} at {address} does not answer: {error}") from error
        finally:
            connection.close()
        return scores

    def latencies(
        self, address: str, model: str, rows: Path, columns: Sequence[str], *, requests: int
    ) -> Sequence[float]:
        """Wall milliseconds of single predictions, the file's rows in turn, over one connection, after `WARM_UP` others.

        Connection, protocol and prediction together, as a router next to the worker would see it. Raises as `score`.
        """
        frame = _read(rows, columns)
        if frame.height == 0:
            return []
        connection = sockets.connection_to(address, timeout_s=self._timeout_s)
        took: list[float] = []
        try:
            for number in range(requests + WARM_UP):
                row = frame.slice(number % frame.height, 1)
                began = time.perf_counter()
                deque(_ask(connection, model, row), maxlen=0)
                took.append((time.perf_counter() - began) * 1000)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the worker of {model} at {address} does not answer: {error}") from error
        finally:
            connection.close()
        return took[WARM_UP:]


def _read(rows: Path, columns: Sequence[str]) -> pl.DataFrame:
    known = pl.read_parquet_schema(rows)
    if missing := [name for name in columns if name not in known]:
        raise BadRequest(
            f"the rows to score have no column {missing[0]}; they have {', '.join(known)}",
            next_step="Add the column to the dataset, or register a version whose signature the dataset satisfies.",
        )
    return pl.read_parquet(rows, columns=list(columns))


def _ask(connection: http.client.HTTPConnection, model: str, chunk: pl.DataFrame) -> Iterator[float]:
    body = protocol.encode_request([_tensor(column) for column in chunk.iter_columns()])
    headers = {"Content-Type": "application/json", "X-Steersman-Variant": VARIANT}
    connection.request("POST", f"/v2/models/{quote(model)}/infer", body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        failure = protocol.decode_failure(answer)
        said = f"the worker of {model} answered {response.status}: {failure.error or response.reason}"
        raise (BadRequest if response.status < 500 else Unavailable)(said)
    try:
        first = protocol.decode_outputs(protocol.decode_answer(answer))[0]
    except (EnvelopeError, IndexError) as error:
        raise BadRequest(f"the answer of {model} is no output of the inference protocol: {error}") from error
    if len(first.data) != chunk.height or any(isinstance(value, str | list) for value in first.data):
        raise BadRequest(f"the first output of {model}, {first.name}, is not one number a row")
    return (math.nan if value is None else float(value) for value in first.data)


def _tensor(column: pl.Series) -> Tensor:
    """A column as the protocol writes it; a missing value and NaN are both null."""
    rows = [len(column)]
    if column.dtype in _INTEGERS:
        return Tensor(column.name, "INT64", rows, column.to_list())
    if column.dtype == pl.Boolean:
        return Tensor(column.name, "BOOL", rows, column.to_list())
    if column.dtype.is_numeric():
        return Tensor(column.name, "FP64", rows, column.cast(pl.Float64).fill_nan(None).to_list())
    return Tensor(column.name, "BYTES", rows, column.cast(pl.String).to_list())
