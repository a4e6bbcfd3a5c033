"""What a worker does once its model is loaded: check, predict, answer.

Without micro-batching, predictions run in the event loop's thread, one after the other: a hand-over to another thread
would cost more than a small batch, and a model that hangs makes the worker's health check silent too, which is what it
should say. With micro-batching they run in one other thread (`batching`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from steersman.dataplane import examples, protocol, sockets, streaming, tensors, tracing
from steersman.dataplane.batches import Batch, Model, check_rows, tensor
from steersman.dataplane.batching import Batcher, Call, Predicted, TimeOverError
from steersman.dataplane.exchange import Exchange, Refusal
from steersman.dataplane.handles import own_handle, settle_memory
from steersman.dataplane.listening import BACKLOG, EdgeServer, bind_tcp
from steersman.dataplane.loading import RefusedModelError, WorkerSpec
from steersman.dataplane.priority import Session
from steersman.dataplane.protocol import Tensor
from steersman.dataplane.validation import InvalidInputError, Validator
from steersman.dataplane.watch import USAGE_PATH, Watch, own_usage
from steersman.domain.numbers import number_within

BODY_BYTES_MAX = 32 * 1024 * 1024
BODY_S_MAX = 20.0
ERROR_CHARS_MAX = 500

DEADLINE_S_MAX = 600.0
"""The longest deadline a route may have."""

STREAMS_MAX = 32
"""Streams at a time; each has a thread."""

FORWARD_S = 10.0
"""Seconds a worker that is warm tries to get the share of one that serves: 64 that start at once are granted it one after
the other, each 0.1 s later."""

_VARIANTS = {name.encode(): name for name in ("stable", "candidate", "mirror", "challenger")}
_NEUTRAL: dict[str, Any] = {"BYTES": "", "BOOL": False, "FP32": 0.0, "FP64": 0.0}


class _Headers(msgspec.Struct, frozen=True):
    """What the router says of a request beside its body."""

    variant: str = "stable"
    mlflow: bool = False
    json_bytes: int | None = None
    deadline_s: float | None = None
    received: tracing.Headers = ()


class _Generate(msgspec.Struct, frozen=True):
    """A request of the generate extension; our own inputs are read where there is no text."""

    text_input: str | None = None
    id: str | None = None


class Worker:
    """Answers for one loaded version. `watch` is set by who runs it in a process of its own."""

    def __init__(self, spec: WorkerSpec, model: Model) -> None:
        self._spec = spec
        self._model = model
        self._validator = Validator(spec.signature, spec.extra_columns_allowed, as_matrix=model.as_matrix)
        self._path = f"/v2/models/{spec.model}/infer"
        self._stream_path = f"/v2/models/{spec.model}/generate_stream" if model.stream is not None else None
        self._streams = 0
        self._encoder = msgspec.json.Encoder()
        self._batcher: Batcher | None = None
        if spec.batch_rows_max > 1:
            self._batcher = Batcher(model, rows_max=spec.batch_rows_max, wait_ms=spec.batch_wait_ms)
        self.watch: Watch | None = None

    def busy_since(self) -> float | None:
        return self._batcher.running_since if self._batcher is not None else None

    async def app(self, exchange: Exchange) -> None:
        try:
            path = exchange.path
            if path == self._path and exchange.method == "POST":
                headers = _read_headers(exchange)
                body = await exchange.body(bytes_max=BODY_BYTES_MAX, timeout_s=BODY_S_MAX)
                exchange.answer(200, *await self._infer(body, headers))
            elif path == self._stream_path and exchange.method == "POST":
                headers = _read_headers(exchange)
                body = await exchange.body(bytes_max=BODY_BYTES_MAX, timeout_s=BODY_S_MAX)
                await self._stream(body, headers, exchange)
            elif path in ("/v2/health/live", "/v2/health/ready") and exchange.method == "GET":
                exchange.answer(200, b'{"%s": true}' % path.rpartition("/")[2].encode())
            elif path == USAGE_PATH and exchange.method == "GET":
                exchange.answer(200, own_usage())
            else:
                raise Refusal(404, f"no {exchange.method} {path[:200]}", f"POST {self._stream_path or self._path}")
        except Refusal as refusal:
            exchange.refuse(refusal)

    def answer(self, body: bytes, variant: str = "stable") -> bytes:
        """Check and predict at once. Raises Refusal: 400 malformed, 422 not the signature's, 500 the model raised."""
        request_id, batch = self._admit(body, None)
        return self._encode(request_id, self._predict(batch, Call(variant)))

    async def _infer(self, body: bytes, headers: _Headers) -> tuple[bytes, bytes]:
        """The answer's body, and where the time went as a header line."""
        request_id, batch = self._admit(body, headers.json_bytes)
        deadline_at = None
        if headers.deadline_s is not None:
            deadline_at = asyncio.get_running_loop().time() + headers.deadline_s
            if self.watch is not None:
                self.watch.allow(headers.deadline_s)
        call = Call(headers.variant, headers.mlflow, deadline_at)
        if self._batcher is None:
            if headers.deadline_s is not None and headers.deadline_s <= 0:
                raise _time_over("no time was left when it arrived")
            with tracing.model_context(headers.received):
                predicted = self._predict(batch, call)
        else:
            try:
                predicted = await self._batcher.predict(batch, call)
            except TimeOverError as error:
                raise _time_over(str(error)) from None
            except Exception as error:  # whatever the model raised on this request
                raise self._refusal(error, batch) from error
        timing = b"server-timing: queue;dur=%.3f, predict;dur=%.3f\r\n" % (predicted.queue_ms, predicted.predict_ms)
        return self._encode(request_id, predicted), timing

    def _admit(self, body: bytes, json_bytes: int | None) -> tuple[str | None, Batch]:
        try:
            request = tensors.read_request(body, json_bytes)
        except protocol.EnvelopeError as error:
            raise Refusal(400, str(error), "send an Open Inference Protocol v2 request") from None
        try:
            return request.id, self._validator.batch(request.inputs)
        except InvalidInputError as error:
            raise Refusal(422, str(error), "send the columns of the version's signature, one value a row") from None

    def _predict(self, batch: Batch, call: Call) -> Predicted:
        started = time.perf_counter()
        try:
            outputs = self._model.predict(batch, call.variant, call.mlflow)
            check_rows(outputs, batch.rows)
        except Exception as error:  # a model may raise anything; the process stays
            raise self._refusal(error, batch) from error
        return Predicted(outputs, 0.0, (time.perf_counter() - started) * 1000)

    def _refusal(self, error: Exception, batch: Batch) -> Refusal:
        """422 where the model says that it takes no missing or infinite numbers and there is one; else it is its fault."""
        if isinstance(error, ValueError) and ("contains NaN" in str(error) or "contains infinity" in str(error)):
            place = self._validator.not_finite(batch)
            if place is not None:
                return Refusal(422, f"{place}; the model takes finite numbers only", "send a number in every row")
        text = f"the model raised {type(error).__name__}: {error}"
        return Refusal(500, text[:ERROR_CHARS_MAX], "see the worker's log; the version itself is at fault")

    def _encode(self, request_id: str | None, predicted: Predicted) -> bytes:
        return self._encoder.encode(
            {
                "id": request_id,
                "model_name": self._spec.model,
                "model_version": self._spec.version,
                "outputs": [tensor(name, values) for name, values in predicted.outputs],
            }
        )

    async def _stream(self, body: bytes, headers: _Headers, exchange: Exchange) -> None:
        if self._streams >= STREAMS_MAX:
            raise Refusal(503, f"{self._streams} streams are under way", "try again later", retry_after_s=1)
        assert self._model.stream is not None
        request_id, batch = self._admit_generate(body, headers.json_bytes)
        if batch.rows != 1:
            raise Refusal(422, f"{batch.rows} rows, a stream answers one", "send one row a stream")
        answer: dict[str, Any] = {
            "id": request_id, "model_name": self._spec.model, "model_version": self._spec.version,
        }  # fmt: skip

        def encode(piece: Any) -> bytes:
            if isinstance(piece, str):
                return self._encoder.encode({**answer, "text_output": piece})
            return self._encoder.encode({**answer, "outputs": [tensor(name, values) for name, values in piece]})

        def failed(error: Exception) -> bytes:
            return self._encoder.encode({**answer, "error": self._refusal(error, batch).error})

        self._streams += 1
        try:
            pieces = self._model.stream(batch, headers.variant)
            await streaming.relay(exchange, pieces, encode, failed)
        except Exception as error:  # before the first piece
            raise self._refusal(error, batch) from error
        finally:
            self._streams -= 1

    def _admit_generate(self, body: bytes, json_bytes: int | None) -> tuple[str | None, Batch]:
        try:
            request = msgspec.json.decode(body if json_bytes is None else body[:json_bytes], type=_Generate)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refusal(400, str(error), 'send {"text_input": "…"}, or inputs as for infer') from None
        if request.text_input is None:
            return self._admit(body, json_bytes)
        texts = [column.name for column in self._spec.signature if column.type == "BYTES"]
        name = texts[0] if len(texts) == 1 else "text_input"
        try:
            return request.id, self._validator.batch([Tensor(name, "BYTES", [1], [request.text_input])])
        except InvalidInputError as error:
            raise Refusal(422, str(error), "send the columns of the version's signature as inputs") from None

    def warm_up(self) -> None:
        """The version's own input example through the whole way of a request, or one neutral row where it has none.

        So the first caller does not pay for what is built lazily. Raises RefusedModelError when the version fails on its
        own example. Zeros and empty strings are not the model's data: that it raises on them says nothing.
        """
        root = Path(self._spec.artifact_dir)
        name = examples.manifest(root).example
        if name is not None:
            try:
                inputs = examples.example(root, name, self._spec.signature)
            except examples.UnreadableExampleError as error:
                print(f"worker: no warm-up with the input example: {error}"[:ERROR_CHARS_MAX], flush=True)
            else:
                try:
                    self.answer(protocol.encode_request(inputs))
                except Refusal as refusal:
                    raise RefusedModelError(f"the version fails on its own input example {name}: {refusal}") from None
                return
        if not self._spec.signature:
            return
        row = [Tensor(column.name, column.type, [1], [_NEUTRAL.get(column.type, 0)]) for column in self._spec.signature]
        try:
            self.answer(protocol.encode_request(row))
        except Refusal as refusal:
            print(f"worker: warm-up row refused: {refusal}"[:ERROR_CHARS_MAX], flush=True)


def _time_over(why: str) -> Refusal:
    return Refusal(504, f"the deadline passed before the prediction began: {why}", "send fewer requests at a time")


def _read_headers(exchange: Exchange) -> _Headers:
    variant, mlflow, json_bytes, deadline_s = "stable", False, None, None
    for name, value in exchange.fields:
        try:
            if name == b"x-steersman-variant":
                variant = _VARIANTS[value]
            elif name == b"x-steersman-prediction":
                mlflow = value == b"1"
            elif name == b"x-steersman-deadline-ms":
                deadline_s = min(_number(name, value) / 1000, DEADLINE_S_MAX)
            elif name == b"inference-header-content-length":
                json_bytes = _number(name, value)
        except KeyError:
            raise Refusal(400, "unknown X-Steersman-Variant", "stable, candidate, mirror or challenger") from None
    return _Headers(variant, mlflow, json_bytes, deadline_s, exchange.fields)


def _number(name: bytes, value: bytes) -> int:
    number = number_within(value, 0, sys.maxsize)
    if number is None:
        raise Refusal(400, f"{name.decode('latin-1')}: not a number", "send a number, or leave it out")
    return number


Bound = tuple[socket.socket, str]
"""A socket that does not listen yet, and its address."""


class Door(NamedTuple):
    """Where a worker will answer, and how others learn of it: all made before the walls, which would not let it."""

    listener: socket.socket
    address: str
    handle: int
    """Descriptor of the handle's file."""

    @classmethod
    def of(cls, spec: WorkerSpec, bound: Bound | None) -> Self:
        """`bound` is the Unix socket that who walled this process in before has bound. Raises OSError."""
        path = Path(spec.handle_file)
        if spec.local_port:
            listener = bind_tcp("127.0.0.1", 0)
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        else:
            listener, address = bound or sockets.bind_beside(path)
        return cls(listener, address, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))


async def serve(spec: WorkerSpec, model: Model, door: Door, walls: str, session: Session) -> str | None:
    """Warm up, listen, write the handle, and serve until SIGTERM.

    Returns why it stopped by itself, where it did: the memory it was allowed was used up. Raises RefusedModelError.
    """
    worker = Worker(spec, model)
    worker.warm_up()
    door.listener.listen(BACKLOG)
    server = EdgeServer(worker.app)
    stopped_because: list[str] = []

    def stop(because: str | None = None) -> None:
        server.stop()
        if because is not None:
            stopped_because.append(because)

    worker.watch = Watch(hang_s=spec.hang_s, memory_mb=spec.memory_mb, busy_since=worker.busy_since, over_memory=stop)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    settle_memory()
    signal.setitimer(signal.ITIMER_REAL, 0)
    session.step_forward(patience_s=FORWARD_S)
    card = own_handle(address=door.address, digest=spec.digest, sandbox=walls)
    os.write(door.handle, msgspec.json.encode(card))
    os.close(door.handle)
    worker.watch.beat()
    await server.serve(door.listener)
    session.step_back()  # an interpreter with its libraries takes 0.1 s to be taken apart
    return stopped_because[0] if stopped_because else None
