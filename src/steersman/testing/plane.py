"""A real data plane for tests: router, committer and workers as processes on free ports, ended by their pids.

with Plane(folder) as plane:
    digest = plane.store(tree)
    worker = plane.worker(digest, format="lightgbm", file="model.lgb", signature=columns)
    plane.router()
    plane.committer()
    plane.route(plane.variant("stable", digest, [worker]))
    status, answer = plane.infer({"x": [1.0, 2.0]})
    plane.flush()
    rows = plane.log.scored_rows(...)
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from steersman.dataplane import listening, sockets
from steersman.dataplane.artifacts import ArtifactStore
from steersman.dataplane.configuration import (
    Column,
    MirrorRoute,
    Route,
    RouterConfiguration,
    TokenHash,
    VariantRoute,
    encode,
)
from steersman.dataplane.handles import read_handle
from steersman.dataplane.sandbox import COMMITTER_ALLOCATOR, allowed_environment
from steersman.dataplane.storage import open_storage
from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.ports import Scope

TOKEN = "a-token-of-the-tests"  # noqa: S105 - a test's own, no secret
EVERYTHING = ("predict", "override", "label", "metrics")
READY_S_MAX = 60.0
STOP_S_MAX = 20.0

_DATATYPES: dict[type, str] = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}


STUMP_SIGNATURE = (Column(name="x", type="FP64"), Column(name="z", type="FP64"))
"""What a stump takes; `z` plays no part."""

_STUMP_TREE = """Tree=0
num_leaves=2
num_cat=0
split_feature=0
split_gain=1
threshold=0
decision_type=2
left_child=-1
right_child=-2
leaf_value={low!r} {high!r}
leaf_weight=1 1
leaf_count=1 1
internal_value=0
internal_weight=2
internal_count=2
is_linear=0
shrinkage=1


"""
_STUMP_HEAD = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=1
objective=regression
feature_names=x z
feature_infos=[-1:1] [-1:1]
tree_sizes={size}

"""


def stump(folder: Path, *, low: float = 0.25, high: float = 0.75) -> Path:
    """Write a LightGBM model of one split into `folder` and return it: `low` where x <= 0, else `high`."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = _STUMP_TREE.format(low=low, high=high)
    (folder / "model.lgb").write_text(_STUMP_HEAD.format(size=len(tree)) + tree + "end of trees\n\n")
    return folder


STUMP: dict[str, Any] = {
    "format": "lightgbm",
    "file": "model.lgb",
    "signature": msgspec.to_builtins(STUMP_SIGNATURE),
    "extra_columns_allowed": ["who"],
}
"""How a worker is told to load a stump; `who` is the `stickyBy` column that may come along."""


def tensor(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A column as the protocol writes it; the datatype from the first value that is not null."""
    kind = next((_DATATYPES[type(value)] for value in values if value is not None), "FP64")
    return {"name": name, "datatype": kind, "shape": [len(values)], "data": list(values)}


class Plane:
    """Everything below one state directory. Nothing is started that `__exit__` does not end."""

    def __init__(
        self,
        state: Path,
        *,
        workspace: str = "ops",
        environment: str = "production",
        model: str = "m",
        tables: Mapping[str, str] | None = None,
    ) -> None:
        """`tables` are the variables that say where the tables live, where that is not the state directory."""
        self.state = state
        self._tables = dict(tables or {})
        self.scope = Scope(workspace, environment, model)
        self.port = 0
        self._listener: socket.socket | None = None
        self.log = DeltaInferenceLog(state, open_storage(state, self._tables))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._store = ArtifactStore(state / "artifacts")
        self._numbers = itertools.count(1)
        self._generation = 0
        state.mkdir(parents=True, exist_ok=True)
        (state / "run").mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self.processes):
            self.stop(name, signal.SIGKILL)
        if self._listener is not None:
            self._listener.close()

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(
        self, name: str, *arguments: str, limits: Mapping[int, int] | None = None, inherited: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Start `python -m steersman.dataplane.<first word of name>` with resource limits (soft, by RLIMIT number).

        `inherited` are the open files it may use.
        """
        module = name.partition("-")[0]

        def limit() -> None:
            for number, value in (limits or {}).items():
                resource.setrlimit(number, (value, resource.getrlimit(number)[1]))

        log = (self.state / f"{name}.log").open("ab")
        further = {**self._tables, **COMMITTER_ALLOCATOR} if module == "committer" else {}
        if module == "router":  # what the supervisor passes on to routers
            further = {key: value for key, value in os.environ.items() if key.startswith("OTEL_")}
        with log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"steersman.dataplane.{module}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=allowed_environment(os.environ, threads=1) | further,
                start_new_session=True,
                pass_fds=tuple(inherited),
                preexec_fn=limit if limits else None,
            )
        self.processes[name] = process
        return process

    def router(self, *, limits: Mapping[int, int] | None = None) -> None:
        """Start (or start again) the router and wait until it listens.

        The listening socket is the plane's own, as the supervisor's is: between two routers callers wait in its backlog.
        """
        handle = self.state / "run" / "router-0.json"
        if self._listener is None:
            self._listener = listening.listen_tcp("127.0.0.1", 0)
        number = self._listener.fileno()
        process = self.start(
            "router", "--state", str(self.state), "--fd", str(number), limits=limits, inherited=(number,)
        )
        self._await("router", lambda: (card := read_handle(handle)) is not None and card.pid == process.pid)
        card = read_handle(handle)
        assert card is not None
        assert card.port is not None
        self.port = card.port
        self._await("router", self._live)

    def committer(self, *, interval_s: float = 0.0) -> None:
        handle = self.state / "run" / "committer.json"
        process = self.start("committer", "--state", str(self.state), "--interval-s", str(interval_s))
        self._await("committer", lambda: (card := read_handle(handle)) is not None and card.pid == process.pid)

    def worker(self, digest: str, **spec: Any) -> str:
        """Start a worker for a stored version, wait until it is warm, and return its address."""
        name = self.start_worker(digest, **spec)
        return self.address(name)

    def start_worker(self, digest: str, **spec: Any) -> str:
        """Start a worker without waiting; returns the process's name."""
        name = f"worker-{next(self._numbers)}"
        document = {
            "artifact_dir": str(self._store.path(digest)),
            "digest": digest,
            "model": self.scope.model,
            "version": "1",
            "handle_file": str(self.state / "run" / f"{name}.json"),
            **spec,
        }
        path = self.state / "run" / f"{name}.spec.json"
        path.write_bytes(msgspec.json.encode(document))
        self.start(name, "--spec", str(path))
        return name

    def address(self, name: str) -> str:
        """Where a worker listens, once it is warm."""
        handle = self.state / "run" / f"{name}.json"
        self._await(name, lambda: read_handle(handle) is not None)
        card = read_handle(handle)
        assert card is not None
        assert card.address is not None
        return card.address

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """Signal a process and wait for it to end; returns its exit code."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S_MAX)
            raise AssertionError(f"{name} did not end within {STOP_S_MAX:g} s") from None

    def said(self, name: str) -> str:
        return (self.state / f"{name}.log").read_text(errors="replace")

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while not ready():
            code = self.processes[name].poll()
            if code is not None:
                raise AssertionError(f"{name} ended with {code}: {self.said(name)[-2000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} was not ready within {READY_S_MAX:g} s: {self.said(name)[-2000:]}")
            time.sleep(0.01)

    def _live(self) -> bool:
        try:
            return self.request("GET", "/v2/health/live", b"")[0] == 200
        except OSError:
            return False

    # --- versions and routes -----------------------------------------------------------------------------------------

    def store(self, tree: Path) -> str:
        return self._store.put(tree)

    def variant(
        self,
        role: Literal["stable", "candidate"],
        digest: str,
        addresses: Sequence[str],
        *,
        weight_pct: float = 100.0,
        version: str = "1",
        release: str = "r1",
    ) -> VariantRoute:
        return VariantRoute(
            role=role,
            version=version,
            digest=digest,
            release=release,
            weight_pct=weight_pct,
            addresses=tuple(addresses),
        )

    def route(
        self,
        *variants: VariantRoute,
        mirrors: Sequence[MirrorRoute] = (),
        replay: bool = False,
        signature: Sequence[Column] = (),
        **settings: Any,
    ) -> None:
        """Send the router a configuration with one route, one generation newer than the last."""
        self.apply(self.compose(*variants, mirrors=mirrors, signature=signature, **settings), replay=replay)

    def compose(
        self,
        *variants: VariantRoute,
        model: str | None = None,
        mirrors: Sequence[MirrorRoute] = (),
        signature: Sequence[Column] = (),
        **settings: Any,
    ) -> Route:
        """A route for the plane's model, or another in the same place."""
        workspace, environment, own = self.scope
        settings.setdefault("salt", "salt")
        return Route(
            workspace=workspace,
            environment=environment,
            model=model or own,
            variants=variants,
            mirrors=tuple(mirrors),
            signature=tuple(signature),
            **settings,
        )

    def apply(self, *routes: Route, replay: bool = False) -> None:
        """Send the router a configuration of these routes, one generation newer than the last."""
        self._generation += 1
        token = TokenHash(sha256=hashlib.sha256(TOKEN.encode()).hexdigest(), permissions=EVERYTHING)
        status, body = self.configure(
            RouterConfiguration(generation=self._generation, replay=replay, routes=routes, tokens=(token,))
        )
        assert status == 200, body

    def configure(self, configuration: RouterConfiguration) -> tuple[int, Any]:
        return self.admin("PUT", "/configuration", encode(configuration))

    def admin(self, method: str, target: str, body: bytes = b"", *, socket: str = "router-0.sock") -> tuple[int, Any]:
        status, answer = sockets.call_unix(self.state / "run" / socket, method, target, body)
        return status, msgspec.json.decode(answer)

    def flush(self) -> None:
        self.log.flush()

    # --- calls -------------------------------------------------------------------------------------------------------

    def infer(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        event_ids: Sequence[str] | None = None,
        at: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """One inference call; returns status and the decoded answer."""
        request: dict[str, Any] = {"inputs": [tensor(name, values) for name, values in columns.items()]}
        if event_ids is not None:
            request["parameters"] = {"event_ids": list(event_ids)}
        sent = {**({"X-Event-Time": at} if at else {}), **(headers or {})}
        status, body = self.request("POST", self.infer_path, msgspec.json.encode(request), sent)
        return status, msgspec.json.decode(body)

    def labels(self, labels: Sequence[Mapping[str, Any]], *, at: str | None = None) -> tuple[int, Any]:
        workspace, _, model = self.scope
        body = msgspec.json.encode({"labels": list(labels)})
        sent = {"X-Event-Time": at} if at else {}
        status, answer = self.request("POST", f"/{workspace}/labels/{model}", body, sent)
        return status, msgspec.json.decode(answer)

    @property
    def infer_path(self) -> str:
        workspace, environment, model = self.scope
        return f"/{workspace}/{environment}/v2/models/{model}/infer"

    def request(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method,
                target,
                body,
                {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **(headers or {})},
            )
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
