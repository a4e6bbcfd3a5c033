"""What a worker does once its model is loaded: check, predict, answer.

Predictions run in the event loop's thread, one after the other. A hand-over to another thread would cost more than a small
batch, and a model that hangs makes the worker's health check silent too, which is what it should say.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from typing import Any

import msgspec

from steersman.dataplane import asgi, protocol
from steersman.dataplane.asgi import Receive, Refusal, Scope, Send
from steersman.dataplane.handles import own_handle
from steersman.dataplane.loading import Predict, WorkerSpec
from steersman.dataplane.validation import InvalidInputError, Validator

BODY_BYTES_MAX = 32 * 1024 * 1024
BODY_S_MAX = 20.0
ERROR_CHARS_MAX = 500

_VARIANT_HEADER = b"x-steersman-variant"
_VARIANTS = frozenset({"stable", "candidate", "mirror", "challenger"})


class Worker:
    """The ASGI app around one loaded version."""

    def __init__(self, spec: WorkerSpec, predict: Predict) -> None:
        self._spec = spec
        self._predict = predict
        self._validator = Validator(spec.signature, spec.extra_columns_allowed)
        self._path = f"/v2/models/{spec.model}/infer"

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path = scope["path"]
            if path == self._path and scope["method"] == "POST":
                body = await asgi.read_body(scope, receive, bytes_max=BODY_BYTES_MAX, timeout_s=BODY_S_MAX)
                await asgi.reply(send, 200, self.answer(body, _variant(scope)))
            elif path in ("/v2/health/live", "/v2/health/ready") and scope["method"] == "GET":
                await asgi.reply(send, 200, b'{"%s": true}' % path.rpartition("/")[2].encode())
            else:
                raise Refusal(404, f"no {scope['method']} {path[:200]}", f"POST {self._path}")
        except Refusal as refusal:
            await asgi.refuse(send, refusal)

    def answer(self, body: bytes, variant: str) -> bytes:
        """Check and predict. Raises Refusal: 400 malformed, 422 not the signature's, 500 the model raised."""
        try:
            request = protocol.decode_request(body)
        except protocol.EnvelopeError as error:
            raise Refusal(400, str(error), "send an Open Inference Protocol v2 request in JSON") from None
        try:
            columns, rows = self._validator.columns(request.inputs)
        except InvalidInputError as error:
            raise Refusal(422, str(error), "send the columns of the version's signature, one value a row") from None
        try:
            outputs = self._predict(columns, rows, variant)
        except Exception as error:  # a model may raise anything; the process stays
            text = f"the model raised {type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
            raise Refusal(500, text, "see the worker's log; the version itself is at fault") from error
        return msgspec.json.encode(
            {
                "id": request.id,
                "model_name": self._spec.model,
                "model_version": self._spec.version,
                "outputs": outputs,
            }
        )

    def warm_up(self) -> None:
        """One row through the model, so that the first caller does not pay for what is built lazily.

        Zeros and empty strings are not the model's data: that it raises on them says nothing.
        """
        if not self._spec.signature:
            return
        row: dict[str, list[Any]] = {column.name: [_NEUTRAL.get(column.type, 0)] for column in self._spec.signature}
        try:
            self._predict(row, 1, "stable")
        except Exception as error:
            print(f"worker: warm-up row refused: {type(error).__name__}: {error}"[:ERROR_CHARS_MAX], flush=True)


_NEUTRAL: dict[str, Any] = {"BYTES": "", "BOOL": False, "FP32": 0.0, "FP64": 0.0}


def _variant(scope: Scope) -> str:
    value = next((value for name, value in scope["headers"] if name == _VARIANT_HEADER), b"stable").decode("latin-1")
    if value not in _VARIANTS:
        raise Refusal(400, "unknown X-Steersman-Variant", "stable, candidate, mirror or challenger")
    return value


async def serve(spec: WorkerSpec, predict: Predict, handle: int, walls: str) -> None:
    """Warm up, listen, write the handle to the open descriptor, and serve until SIGTERM."""
    worker = Worker(spec, predict)
    worker.warm_up()
    listener: socket.socket = asgi.listen_tcp("127.0.0.1", spec.port)
    server = asgi.edge(worker.app)

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    gc.collect()
    gc.freeze()
    card = own_handle(port=listener.getsockname()[1], digest=spec.digest, sandbox=walls)
    os.write(handle, msgspec.json.encode(card))
    os.close(handle)
    await server.serve(sockets=[listener])
