"""The routers of an installation: their listening sockets, and how one is replaced without a failed request.

The supervisor binds the public port, once for each router (`SO_REUSEPORT` where there are several: the kernel deals new
connections out), and every router it starts inherits its socket. A router that is killed leaves its callers in the
kernel's queue. A planned restart is an overlap: the successor starts on the same socket, restores the configuration, says
that it is ready, and only then is the predecessor asked to end, which answers what it has and closes what is idle.

When the supervisor is killed in between, a note in `run/` names both, so that the next one ends the one too many.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from steersman.dataplane import handover, listening
from steersman.dataplane.handles import Handle, read_handle
from steersman.domain.numbers import number_within
from steersman.server.children import Child, argv_of, environment_of
from steersman.server.installation import Installation

READY_S_MAX = 60.0
"""Wall seconds a successor may take until it is ready: 1 s when quiet. After that the predecessor simply stays."""

RETIRE_S_MAX = 120.0
"""Wall seconds a predecessor has to drain: 3 s of grace, 30 s for what is under way, 60 s for copies to mirrors."""


class Routers:
    """`children` by name, `router-0` and on. `say` tells a person."""

    def __init__(self, state: Path, installation: Installation, say: Callable[[str], None]) -> None:
        self.children: dict[str, Child] = {}
        self._state = state
        self._installation = installation
        self._say = say
        self._restart_asked = False
        self._waiting: deque[str] = deque()
        self._successor: Child | None = None
        self._late_at = 0.0
        self._retiring: list[tuple[Child, float]] = []

    # --- what runs from before ---------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Adopt the routers that run from before, with their sockets, and end those that are too many."""
        for number in range(self._installation.routers):
            child = self._child(number)
            self._end_left_over(child.name)
            self._adopt(child, number)
            self.children[child.name] = child
        for path in (self._state / "run").glob("router-*.json"):
            left_over = number_within(path.stem.removeprefix("router-"), 0, sys.maxsize)
            if left_over is not None and path.stem not in self.children:
                surplus = self._child(left_over)
                surplus.adopted = read_handle(path)
                surplus.stop()

    def _adopt(self, child: Child, number: int) -> None:
        handle = read_handle(self._card(child.name))
        if handle is None or not handle.alive():
            return
        child.adopted = handle
        child.listener = handover.fetch(handover.door(self._state, number))
        if child.listener is None:
            self._say(f"  {child.name}: adopted (pid {handle.pid}), but it does not give its socket back")
        elif bool(child.listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)) != self._shared:
            # One socket cannot begin or cease to share its port: the number of routers changed from or to one.
            self._say(f"  {child.name}: ended (pid {handle.pid}), because the number of routers changed")
            child.stop()
            child.listener.close()
            child.listener = None
        else:
            self._say(f"  {child.name}: running since before (pid {handle.pid}), adopted")

    def _end_left_over(self, name: str) -> None:
        """End the other one of a pair, where a supervisor was killed in the middle of a restart."""
        note = self._note(name)
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            current = read_handle(self._card(name))
            for handle in msgspec.json.decode(note.read_bytes(), type=list[Handle]):
                if handle.alive() and (current is None or handle.pid != current.pid):
                    os.kill(handle.pid, signal.SIGTERM)
        note.unlink(missing_ok=True)

    @property
    def _shared(self) -> bool:
        return self._installation.routers > 1

    def _child(self, number: int) -> Child:
        host, port = self._installation.host, self._installation.router_port
        return Child(
            name=f"router-{number}",
            argv=argv_of("steersman.dataplane.router", self._state, "--number", str(number)),
            environment=environment_of("router"),
            directory=Path.cwd(),
            log=self._state / "logs" / f"router-{number}.log",
            listen=functools.partial(listening.listen_tcp, host, port, shared=self._shared),
        )

    def _card(self, name: str) -> Path:
        return self._state / "run" / f"{name}.json"

    def _note(self, name: str) -> Path:
        return self._state / "run" / f"{name}.restart"

    def ready(self, child: Child) -> bool:
        """Whether that very process has restored its configuration and is about to accept."""
        handle = read_handle(self._card(child.name))
        return handle is not None and handle.pid == child.pid

    # --- the planned restart -----------------------------------------------------------------------------------------

    def ask_restart(self) -> None:
        """Replace every router, one after the other, at the next looks."""
        self._restart_asked = True

    def look(self) -> None:
        """One step: begin with the next router, hand over when its successor is ready, see to those that drain."""
        self._see_to_retiring()
        if self._successor is not None:
            self._follow(self._successor)
        elif self._waiting:
            self._begin(self.children[self._waiting.popleft()])
        elif self._restart_asked:
            self._restart_asked = False
            self._waiting.extend(self.children)

    def _begin(self, old: Child) -> None:
        pid = old.pid
        if pid is None or not old.running():
            return  # it is started again anyway
        if old.listener is None:
            self._say(f"  {old.name} does not share its socket: it ends, and starts again")
            old.stop()
            return
        successor = self._child(int(old.name.removeprefix("router-")))
        successor.listener = old.listener
        try:
            successor.start()
            cards = [_handle_of(process) for process in (pid, successor.pid) if process is not None]
            self._note(old.name).write_bytes(msgspec.json.encode(cards))
        except (OSError, psutil.NoSuchProcess) as error:
            self._say(f"  {old.name} cannot be restarted, and serves on: {error}")
            successor.stop()
            return
        self._successor = successor
        self._late_at = time.monotonic() + READY_S_MAX

    def _follow(self, successor: Child) -> None:
        name = successor.name
        old = self.children[name]
        if self.ready(successor):
            self._say(f"  {name}: pid {successor.pid} took over from pid {old.pid}")
            self.children[name] = successor
            self._successor = None
            old.signal(signal.SIGTERM)
            self._retiring.append((old, time.monotonic() + RETIRE_S_MAX))
        elif not successor.running() or time.monotonic() > self._late_at:
            self._say(f"  {name} was not replaced, pid {old.pid} serves on:\n{successor.last_words()}")
            successor.stop()
            self._successor = None
            self._waiting.clear()

    def _see_to_retiring(self) -> None:
        for entry in list(self._retiring):
            child, until = entry
            if not child.running():
                self._retiring.remove(entry)
                self._note(child.name).unlink(missing_ok=True)
            elif time.monotonic() > until:
                child.signal(signal.SIGKILL)

    def stop(self) -> None:
        """End them all, also who starts or drains just now."""
        everybody = [*self.children.values(), *(child for child, _ in self._retiring)]
        if self._successor is not None:
            everybody.append(self._successor)
        for child in everybody:
            child.signal(signal.SIGTERM)
        for child in everybody:
            child.stop()


def _handle_of(pid: int) -> Handle:
    return Handle(pid=pid, started_at=psutil.Process(pid).create_time())
