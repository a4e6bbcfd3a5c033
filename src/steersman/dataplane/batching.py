"""Micro-batching: requests that arrive while a prediction runs are predicted together when it ends.

One row through a hundred trees costs almost what thirty rows cost, because most of it is the call. So under load requests
share calls. Alone they do not pay for it: a request that finds nothing running and nobody expected goes at once. Others
are expected when others were there just now; then the first waits for as many as were seen lately, and never longer than
the model's `maxWait`. Predictions run in one thread beside the event loop, which goes on reading requests.

A request is never split. Members share nothing but the call: each fitted the signature on its own before, each gets its
own rows back, and where a shared call fails, its members are asked one by one, so that only the culprit fails.
"""

from __future__ import annotations

import asyncio
import collections
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from steersman.dataplane.batches import Batch, Model, Outputs, check_rows, joined, share
from steersman.dataplane.running import Arrival

SWITCH_S = 0.0005
"""How long the event loop may keep the interpreter while a prediction wants it (Python: 5 ms). A prediction asks for it
between two calls into a library; at 5 ms each, one of 2 ms waits for longer than it runs."""


class TimeOverError(Exception):
    """The caller's deadline had passed before the request's turn came."""


@dataclass(frozen=True, slots=True)
class Call:
    """What of a request decides how it is predicted. `deadline_at` is of the event loop's clock, None for no end."""

    variant: str = "stable"
    mlflow: bool = False
    deadline_at: float | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """One request's outputs, and the milliseconds it waited and its (perhaps shared) prediction took."""

    outputs: Outputs
    queue_ms: float
    predict_ms: float


@dataclass(slots=True)
class _Waiting:
    batch: Batch
    call: Call
    key: tuple[object, ...]
    since: float
    predicted: Arrival[Predicted]


class Batcher:
    """Predicts for one model; belongs to one event loop."""

    def __init__(self, model: Model, *, rows_max: int, wait_ms: float) -> None:
        self._model = model
        self._rows_max = rows_max
        self._wait_s = wait_ms / 1000
        sys.setswitchinterval(SWITCH_S)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._rows = 0
        self._expected = 1.0
        self._predict_s = self._wait_s
        self._timer: asyncio.TimerHandle | None = None
        self.running_since: float | None = None
        """When the prediction under way began, by `time.monotonic`; None while there is none."""

    async def predict(self, batch: Batch, call: Call) -> Predicted:
        """Raises TimeOverError, or what the model raises on this request alone."""
        loop = asyncio.get_running_loop()
        key = (call.mlflow, call.variant if self._model.variant_matters else "", tuple(batch.columns), _form(batch))
        waiting = _Waiting(batch, call, key, loop.time(), Arrival(loop))
        self._waiting.append(waiting)
        self._rows += batch.rows
        self._consider(loop)
        return await waiting.predicted

    def _consider(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the next prediction, unless one runs or more requests are worth waiting for."""
        if self.running_since is not None or not self._waiting:
            return
        # Waiting longer than a prediction takes gains nothing: who comes later shares the next one as soon.
        due_at = self._waiting[0].since + min(self._wait_s, self._predict_s)
        if len(self._waiting) < int(self._expected) and self._rows < self._rows_max and loop.time() < due_at:
            if self._timer is None:
                self._timer = loop.call_at(due_at, self._due, loop)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if members := self._members(loop.time()):
            self.running_since = time.monotonic()
            started = loop.time()
            running = loop.run_in_executor(self._executor, self._run, members)
            running.add_done_callback(lambda done: self._finish(loop, members, started, done))

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._consider(loop)

    def _members(self, now: float) -> list[_Waiting]:
        """The oldest request and others of its kind, in order, up to `rows_max` rows; whose caller is gone falls out."""
        members: list[_Waiting] = []
        left: collections.deque[_Waiting] = collections.deque()
        rows, full = 0, False
        for one in self._waiting:
            if one.predicted.settled:
                continue
            if one.call.deadline_at is not None and one.call.deadline_at <= now:
                one.predicted.fail(TimeOverError(f"waited {(now - one.since) * 1000:.0f} ms"))
            elif members and (full or one.key != members[0].key):
                left.append(one)
            elif members and rows + one.batch.rows > self._rows_max:
                full = True
                left.append(one)
            else:
                members.append(one)
                rows += one.batch.rows
        self._waiting = left
        self._rows = sum(one.batch.rows for one in left)
        return members

    def _run(self, members: Sequence[_Waiting]) -> list[Outputs | Exception]:
        """In the thread: the members' outputs in order, or what each of them made the model raise."""
        if len(members) > 1:
            rows = joined([one.batch for one in members])
            try:
                outputs = self._model.predict(rows, members[0].call.variant, members[0].call.mlflow)
                check_rows(outputs, rows.rows)
            except Exception:  # a model may raise anything; which member made it raise is found out below
                return [self._alone(one) for one in members]
            shares: list[Outputs | Exception] = []
            start = 0
            for one in members:
                shares.append(share(outputs, start, start + one.batch.rows))
                start += one.batch.rows
            return shares
        return [self._alone(members[0])]

    def _alone(self, one: _Waiting) -> Outputs | Exception:
        try:
            outputs = self._model.predict(one.batch, one.call.variant, one.call.mlflow)
            check_rows(outputs, one.batch.rows)
        except Exception as error:
            return error
        return outputs

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        members: Sequence[_Waiting],
        started: float,
        done: asyncio.Future[list[Outputs | Exception]],
    ) -> None:
        seen = len(members) + len(self._waiting)
        # At once up, by halves down: callers who left are forgotten within a few predictions.
        self._expected = max(seen, (self._expected + seen) / 2)
        self.running_since = None
        took_s = loop.time() - started
        self._predict_s = (self._predict_s + took_s) / 2
        predict_ms = took_s * 1000
        self._consider(loop)  # first: the next prediction runs while these are answered
        for one, result in zip(members, done.result(), strict=True):
            if isinstance(result, Exception):
                one.predicted.fail(result)
            else:
                one.predicted.bring(Predicted(result, (started - one.since) * 1000, predict_ms))


def _form(batch: Batch) -> int:
    """Columns of a matrix: without a signature, requests may differ in them."""
    return -1 if batch.matrix is None else batch.matrix.shape[1]
