"""Who takes part in `make bench ARGS=serving`, how each is started, and how each wants a row written.

Every server gets the same model, the same numbers and one worker, in an environment of its own that holds exactly what
`peers/NAME.txt` pins; it lives below `.bench/` and is made on first use. A form of ours is one line in `FORMS`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import load
from steersman.dataplane.configuration import Column
from steersman.testing.plane import TOKEN, Plane, tensor

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / "peers"
CACHE = ROOT / ".bench"

COLUMNS = [f"x{number:02d}" for number in range(30)]
READY_S_MAX = 300.0

Row = Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write a request of one row."""

    name: str
    path: str
    body: Callable[[Row], bytes]
    headers: Mapping[str, str]

    def request(self, row: Row, expected: bytes) -> load.Request:
        return load.post(self.path, self.body(row), headers=dict(self.headers), expected=expected)


def _json(content: Callable[[Row], Any]) -> Callable[[Row], bytes]:
    return lambda row: json.dumps(content(row)).encode()


def _columns(row: Row) -> Any:
    return {"inputs": [tensor(name, [value]) for name, value in zip(COLUMNS, row, strict=True)]}


def _matrix(row: Row) -> Any:
    return {"inputs": [{"name": "rows", "datatype": "FP64", "shape": [1, len(row)], "data": list(row)}]}


def _frame(row: Row) -> Any:
    return {"dataframe_split": {"columns": COLUMNS, "data": [list(row)]}}


def _rows(key: str) -> Callable[[Row], bytes]:
    """A list of rows under the word a server's own service calls its argument."""
    return _json(lambda row: {key: [list(row)]})


_BINARY_BYTES = 8 * len(COLUMNS)
_BINARY_HEAD = json.dumps(
    {
        "inputs": [
            {
                "name": "rows",
                "datatype": "FP64",
                "shape": [1, len(COLUMNS)],
                "parameters": {"binary_data_size": _BINARY_BYTES},
            }
        ]
    }
).encode()


def _binary(row: Row) -> bytes:
    return _BINARY_HEAD + array("d", row).tobytes()


_BEARER = {"Authorization": f"Bearer {TOKEN}"}
_BINARY = {"Inference-Header-Content-Length": str(len(_BINARY_HEAD)), "Content-Type": "application/octet-stream"}
_INFER = "/ops/production/v2/models/m/infer"
FORMS = (
    Form(name="OIP, a tensor a column", path=_INFER, body=_json(_columns), headers=_BEARER),
    Form(name="OIP, one matrix", path=_INFER, body=_json(_matrix), headers=_BEARER),
    Form(name="OIP, one binary matrix", path=_INFER, body=_binary, headers=_BEARER | _BINARY),
    Form(
        name="MLflow, dataframe_split",
        path="/ops/production/endpoints/m/invocations",
        body=_json(_frame),
        headers=_BEARER,
    ),
)
"""Ours. A form that the data plane does not answer is reported as such and not measured."""


class NotMeasuredError(Exception):
    """A server did not start, or did not answer rightly; the text says what it said."""


class Contender(ABC):
    """A server that can be started, asked and ended."""

    name: str
    forms: tuple[Form, ...]
    port: int

    def prepare(self, folder: Path, model: Path) -> None:  # noqa: B027 - most servers need nothing here
        """What may take its time: the environment, the model in the server's own format."""

    @abstractmethod
    def start(self) -> None:
        """Begin to start; returns as soon as the last thing it must do itself is done."""

    def settle(self) -> None:  # noqa: B027 - most servers need nothing here
        """Return when all work that the requests so far caused is done."""

    def parts(self) -> dict[str, int]:
        """Process ids by part, where the parts are worth telling apart."""
        return {}

    def stop(self) -> None:  # noqa: B027 - most servers need nothing here
        """End what the benchmark's own sweep would not."""

    def lives(self) -> bool:
        """Whether what was started still runs."""
        return True

    @abstractmethod
    def say(self) -> str:
        """The end of its log."""

    def ask(self, request: load.Request) -> tuple[int, bytes]:
        """One request on a connection of its own. Raises OSError or http.client.HTTPException."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request.data)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    def await_answer(self, request: load.Request) -> tuple[int, bytes]:
        """The first answer that is not a sign of a server still starting (refused, 404, 503). Raises NotMeasuredError."""
        deadline = time.monotonic() + READY_S_MAX
        because = ""
        while self.lives() and time.monotonic() < deadline:
            try:
                status, body = self.ask(request)
                if status not in (404, 503):
                    return status, body
                because = f"still {status}"
            except (OSError, http.client.HTTPException) as error:
                because = repr(error)
            time.sleep(0.02)
        raise NotMeasuredError(
            f"not ready within {READY_S_MAX:g} s ({because})" if self.lives() else "ended at its start"
        )


class Ours(Contender):
    """Router, worker and committer as `steersman up` starts them; the control server has no part in a request."""

    name = "Steersman"
    forms = FORMS

    def prepare(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._tree = model.parent / "skops"
        self._signature = [Column(name=name, type="FP64") for name in COLUMNS]
        self._number = 0

    def start(self) -> None:
        self._number += 1
        self._plane = plane = Plane(self._folder / f"state-{self._number}")
        digest = plane.store(self._tree)
        signature = [{"name": column.name, "type": column.type} for column in self._signature]
        worker = plane.start_worker(digest, format="skops", file="model.skops", signature=signature)
        plane.start("committer", "--state", str(plane.state))
        plane.router()
        variant = plane.variant("stable", digest, [plane.address(worker)])
        plane.route(variant, signature=self._signature)
        self.port = plane.port

    def settle(self) -> None:
        self._plane.flush()

    def parts(self) -> dict[str, int]:
        return {name.partition("-")[0]: process.pid for name, process in self._plane.processes.items()}

    def stop(self) -> None:
        self._plane.__exit__(None, None, None)

    def say(self) -> str:
        return "".join(f"{name}: {self._plane.said(name)[-500:]}\n" for name in self._plane.processes)


class Peer(Contender):
    """A server started by one command in an environment of its own; `{port}` and `{folder}` stand in its arguments."""

    def __init__(self, name: str, environment: str, arguments: Sequence[str], form: Form) -> None:
        self.name = name
        self.forms = (form,)
        self._environment = environment
        self._arguments = arguments

    def prepare(self, folder: Path, model: Path) -> None:
        self._folder = folder / self._environment
        self._folder.mkdir()
        self._bin = make_environment(self._environment) / "bin"
        self._variables = _variables(self._bin, self._folder, model)
        if self._environment == "mlflow":
            self._run(["python", str(PEERS / "mlflow_save.py"), str(self._folder / "model"), *COLUMNS])

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            [str(self._bin / command[0]), *command[1:]], env=self._variables, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"serving: {command[1]} failed: {done.stderr[-2000:]}")

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [word.format(port=self.port, folder=self._folder, peers=PEERS) for word in self._arguments]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._bin / words[0]), *words[1:]],
                env=self._variables,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def lives(self) -> bool:
        return self._process.poll() is None

    def say(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


def _variables(bin_folder: Path, home: Path, model: Path) -> dict[str, str]:
    """An environment without this one's: one thread a library, no access logs, no reports to anybody's home."""
    return {
        "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "BENCH_MODEL": str(model),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        "UVICORN_ACCESS_LOG": "0",
        "UVICORN_LOG_LEVEL": "warning",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(home / "bentoml"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
    }


def make_environment(name: str) -> Path:
    """The environment that `peers/NAME.txt` pins, made by uv where it is not there yet; `own` is the one we run in."""
    if name == "own":
        return Path(sys.prefix)
    pins = PEERS / f"{name}.txt"
    folder = CACHE / name
    mark = folder / ".pins"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return folder
    print(f"serving: installing {name} into {folder.relative_to(ROOT)}", flush=True)
    uv = str(Path(sys.executable).with_name("uv"))
    python = str(folder / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "-r", str(pins)],
        check=True,
        env=dict(os.environ),
    )
    mark.write_text(digest)
    return folder


def contenders() -> dict[str, Contender]:
    """By the word that `--only` takes, in the order they are measured and shown."""
    inputs = Form(name='{"inputs": [[…]]}', path="/", body=_rows("inputs"), headers={})
    split = Form(name="dataframe_split", path="/invocations", body=_json(_frame), headers={})
    bento = Form(name='{"rows": [[…]]}', path="/predict", body=_rows("rows"), headers={})
    lit = Form(name='{"input": [[…]]}', path="/predict", body=_rows("input"), headers={})
    ray = Form(name='{"input": [[…]]}', path="/", body=_rows("input"), headers={})
    serve_mlflow = ["mlflow", "models", "serve", "--model-uri", "{folder}/model", "--env-manager", "local"]
    serve_mlflow += ["--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    serve_bento = ["bentoml", "serve", "bentoml_service:Classifier", "--working-dir", "{peers}"]
    serve_bento += ["--host", "127.0.0.1", "--port", "{port}"]
    return {
        "floor": Peer("floor (raw ASGI)", "own", ["python", "{peers}/floor_service.py", "{port}"], inputs),
        "ours": Ours(),
        "litserve": Peer("LitServe", "litserve", ["python", "{peers}/litserve_service.py", "{port}"], lit),
        "bentoml": Peer("BentoML", "bentoml", serve_bento, bento),
        "mlflow": Peer("mlflow models serve", "mlflow", serve_mlflow, split),
        "ray": Peer("Ray Serve", "ray", ["python", "{peers}/ray_service.py", "{port}"], ray),
    }
