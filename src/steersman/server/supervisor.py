"""`steersman up`: starts the processes of an installation, starts again what dies, and says where everything is.

The processes need it for nothing else. Each runs in a session of its own and is known by pid and start time, so when
the supervisor itself is killed the router and the workers go on serving, and the next supervisor adopts what it finds.
A process that dies is started again with growing pauses; one that cannot start says why on the terminal.
"""

import contextlib
import errno
import functools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from steersman.client.credentials import Credentials, read_credentials, write_credentials
from steersman.dataplane.handles import read_handle, write_handle
from steersman.domain.access import Secret
from steersman.domain.errors import BadRequest, Conflict, Misconfigured, SteersmanError
from steersman.domain.spec.parts import NAME_PATTERN
from steersman.loop.clock import open_clock
from steersman.server.children import Child, argv_of, environment_of
from steersman.server.embedded_mlflow import (
    READY_TIMEOUT_S,
    EmbeddedMlflow,
    answers,
    prepare,
    protection_file,
    read_start,
    write_start,
)
from steersman.server.installation import FILE, Installation, Tables, load, save
from steersman.server.place import check_place, keep_place, tables_variables
from steersman.server.routers import Routers
from steersman_mlflow_guard import protection

READY_S = 60.0
"""Wall seconds a process of ours may take to answer: 2 s when quiet."""

LOOK_S = 0.2
"""Wall seconds between two looks at the processes."""

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before starting again what died; the last repeats. A process that lived a minute begins anew."""

ROUTERS_MAX = 32
"""Half of the log's streams: in a restart each router has one more beside it."""

PORT_MAX = 65535

PORTS_TRIED = 50
"""How many ports above a busy one are tried."""

REGISTRY_S = 5.0
"""Wall seconds a team's own registry may take to answer at the start, before a line says that it does not."""

Say = Callable[[str], None]


@dataclass
class Supervisor:
    """The processes of one installation. `say` tells a person; it never gets a secret but the login code it must show."""

    state: Path
    installation: Installation
    say: Say
    changed: bool = False
    """Whether the installation is another than at the last start: control server and committer are not adopted then."""
    children: dict[str, Child] = field(default_factory=dict)
    """All but the routers."""
    routers: Routers = field(init=False)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.routers = Routers(self.state, self.installation, self.say)

    def start(self) -> None:
        """Start (or adopt) everything and return when it answers. Raises Misconfigured when something does not."""
        from steersman.server.wiring import EMBEDDED

        self.routers.gather()
        self._add("committer", "steersman.dataplane.committer")
        mlflow = None
        if EMBEDDED in self.installation.registries.values():
            mlflow = self._add_mlflow()
        self._add("control", "steersman.server.control")
        for child in (*self.routers.children.values(), *self.children.values()):
            if not child.running():
                self._start_first(child)
        for router in self.routers.children.values():
            self._wait(router, functools.partial(self.routers.ready, router), READY_S)
        if mlflow is not None:
            self._wait(self.children["mlflow"], lambda: answers(mlflow), READY_TIMEOUT_S)
        self._wait(self.children["control"], lambda: _listens(self.installation.host, self.installation.port), READY_S)
        self._wait(self.children["committer"], (self.state / "run" / "committer.sock").exists, READY_S)

    def _start_first(self, child: Child) -> None:
        try:
            child.start()
        except OSError as error:
            raise Misconfigured(
                f"{child.name} cannot be started: {error.strerror or error}",
                next_step="Free what it needs (a port, space on the disk) and start again.",
            ) from None

    def _add(self, name: str, module: str) -> None:
        environment = environment_of(name, polars_threads=None if name == "control" else 1)
        if name == "control":
            environment |= _variables_of_secrets(self.installation)
        if name in ("control", "committer"):
            environment |= tables_variables(self.installation)
        child = Child(
            name=name,
            argv=argv_of(module, self.state),
            environment=environment,
            directory=Path.cwd(),
            log=self.state / "logs" / f"{name}.log",
        )
        handle = read_handle(self.state / "run" / f"{name}.json")
        if handle is not None and handle.alive():
            child.adopted = handle
            if name in ("control", "committer") and self.changed:
                child.stop()
            else:
                self.say(f"  {name}: running since before (pid {handle.pid}), adopted")
        self.children[name] = child

    def _add_mlflow(self) -> EmbeddedMlflow:
        with contextlib.suppress(Misconfigured):
            known = read_start(self.state)
            handle = read_handle(self.state / "run" / "mlflow.json")
            if handle is not None and handle.alive() and answers(known):
                self._mlflow_child(known).adopted = handle
                return known
        made = prepare(self.state)
        if not protection_file(self.state).exists():
            protection.write(protection_file(self.state), protection.Protection())
        write_start(self.state, made)
        self._mlflow_child(made)
        return made

    def _mlflow_child(self, made: EmbeddedMlflow) -> Child:
        child = Child(
            name="mlflow",
            argv=made.argv,
            environment=made.environment,
            directory=made.directory,
            log=self.state / "logs" / "mlflow.log",
            handle=self.state / "run" / "mlflow.json",
        )
        self.children["mlflow"] = child
        return child

    def _wait(self, child: Child, ready: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if self.ended.is_set():
                raise Misconfigured("stopped while starting", next_step="Start again.")
            if not child.running() or time.monotonic() > deadline:
                why = "ended at once" if not child.running() else f"did not answer within {seconds:.0f} s"
                raise Misconfigured(
                    f"{child.name} {why}:\n{child.last_words()}",
                    next_step=f"Read {child.log}, correct the cause and start again.",
                )
            time.sleep(0.05)

    def watch(self) -> None:
        """Start again what dies, until `ended`; replace the routers when asked to."""
        while not self.ended.wait(LOOK_S):
            self.routers.look()
            for child in (*self.routers.children.values(), *self.children.values()):
                self._look(child)

    def _look(self, child: Child) -> None:
        if child.running():
            if child.failures and time.monotonic() - child.started_at > 60:
                child.failures = 0
            return
        if not child.next_at:
            pause = PAUSES_S[min(child.failures, len(PAUSES_S) - 1)]
            child.next_at = time.monotonic() + pause
            child.failures += 1
            self.say(f"  {child.name} is gone; starting it again in {pause:g} s")
        if time.monotonic() >= child.next_at:
            child.next_at = 0.0
            try:
                child.start()
            except OSError as error:
                self.say(f"  {child.name} cannot be started: {error.strerror or error}")

    def stop(self) -> None:
        """End everything of this installation, the workers too."""
        self.ended.set()
        if "control" in self.children:
            self.children["control"].stop()
        self.routers.stop()
        for name in ("committer", "mlflow"):
            if name in self.children:
                self.children[name].stop()
        from steersman.plugins.targets.local import LocalTarget

        target = LocalTarget(self.state)
        for place in {(r.workspace, r.environment, r.model, r.digest) for r in target.observe()}:
            target.stop(*place)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _variables_of_secrets(installation: Installation) -> dict[str, str]:
    """The variables that hold a registry's token or a webhook: the control server needs them, nothing else gets them."""
    references = [*installation.registry_tokens.values(), *installation.notify.values()]
    names = [reference.removeprefix("env:") for reference in references if reference.startswith("env:")]
    return {name: os.environ[name] for name in names if name in os.environ}


def free_port(host: str, wanted: int, *, taken: frozenset[int] = frozenset()) -> int:
    """`wanted`, or the next free port above it. Raises Misconfigured when none of the next PORTS_TRIED is."""
    if not 1 <= wanted <= PORT_MAX:
        raise BadRequest(f"a port is a number from 1 to {PORT_MAX}, got {wanted}")
    for port in range(wanted, min(wanted + PORTS_TRIED, PORT_MAX + 1)):
        if port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise Misconfigured(
                    f"cannot listen on {host}: {error.strerror}", next_step="Give an address of this machine as --host."
                ) from None
            return port
    raise Misconfigured(
        f"the ports {wanted} to {wanted + PORTS_TRIED - 1} of {host} are taken", next_step="Give another --port."
    )


def main(
    *,
    state: Path,
    host: str = "127.0.0.1",
    port: int = 7700,
    router_port: int = 7701,
    routers: int = 1,
    mlflow_uri: str | None = None,
    mlflow_token: str | None = None,
    mlflow_user: str | None = None,
    mlflow: bool = True,
    registry: str | None = None,
    allow_code: tuple[str, ...] = (),
    notify: tuple[str, ...] = (),
    notify_networks: tuple[str, ...] = (),
    replay_from: datetime | None = None,
    tables: Tables | None = None,
) -> int:
    """Run until SIGTERM or Ctrl-C; 0 then. SIGHUP replaces the routers. Raises SteersmanError when something could not start."""
    wanted = Installation(
        host=host,
        port=port,
        router_port=router_port,
        routers=_number_of_routers(routers),
        registries=_registries(mlflow_uri, mlflow, registry),
        registry_tokens={"mlflow": mlflow_token} if mlflow_token else {},
        registry_users={"mlflow": mlflow_user} if mlflow_user else {},
        code_models=allow_code,
        notify=_channels(notify),
        notify_networks=notify_networks,
        replay_from=replay_from,
        tables=tables,
    )
    _check_credentials(wanted)
    with _alone(state.resolve()):
        return _run(state.resolve(), wanted)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the state directory against a second `steersman up`, which would adopt, and later end, the processes of this."""
    from steersman.plugins.processes import hold

    try:
        (state / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = hold(state / "run" / "up.lock")
    except OSError as error:
        raise Misconfigured(
            f"the state directory {state} cannot be used: {error.strerror}",
            next_step="Make it a directory of yours, or choose another with --state.",
        ) from None
    if lock is None:
        raise Conflict(
            f"`steersman up` runs already with the state directory {state}",
            next_step=f"Use that one (`steersman --state {state} status`), end it, or choose another --state.",
        )
    try:
        write_handle(state / "run" / "up.json")
        yield
    finally:
        os.close(lock)


def _run(state: Path, wanted: Installation) -> int:
    from steersman.server.wiring import first_admin, login_code
    from steersman.store.database import Store

    known = load(state) if (state / FILE).exists() else None
    wanted = keep_place(state, wanted, known)
    unanswered = check_place(state, wanted)
    store = Store.at(state)
    replay_from = wanted.replay_from or (known.replay_from if known else None)
    clock = open_clock(store, replay_from=replay_from)
    earlier = read_credentials(state)
    installation = _installation(state, msgspec.structs.replace(wanted, replay_from=replay_from), known)
    supervisor = Supervisor(
        state=state,
        installation=installation,
        say=lambda text: print(text, flush=True),
        changed=installation != known,
    )
    token = first_admin(store, known=Secret(earlier.token) if earlier else None, at=clock.now())
    code = login_code(store)
    store.close()
    credentials = Credentials(url=installation.url, token=token.reveal(), router_url=installation.router_url)
    write_credentials(state, credentials)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: supervisor.ended.set())
    signal.signal(signal.SIGHUP, lambda _number, _frame: supervisor.routers.ask_restart())
    supervisor.say(f"Steersman, state in {state}")
    if unanswered is not None:
        supervisor.say(f"  tables   {unanswered}")
    try:
        supervisor.start()
        supervisor.say(f"  console  {installation.url}/   (one-time code: {code.reveal()})")
        supervisor.say(f"  router   {installation.router_url}/")
        if "mlflow" in supervisor.children:
            supervisor.say(f"  MLflow   {installation.url}/mlflow   (MLFLOW_TRACKING_URI)")
        _say_registries(installation, supervisor.say)
        supervisor.say(f"  token    in {state / 'credentials.json'}; steersman --state {state} status")
        supervisor.watch()
    finally:
        supervisor.stop()
    return 0


def _number_of_routers(wanted: int) -> int:
    if not 1 <= wanted <= ROUTERS_MAX:
        raise BadRequest(f"--routers takes a number from 1 to {ROUTERS_MAX}, got {wanted}")
    return wanted


def _check_credentials(installation: Installation) -> None:
    """What is wrong for good with an address, of a registry or a channel, or its secret is said before anything starts."""
    from steersman.plugins.secrets import read_secret
    from steersman.server.wiring import EMBEDDED, MLFLOW, outbox, own_mlflow

    outbox(installation)
    if installation.registries.get(MLFLOW) in (None, EMBEDDED):
        if installation.registry_tokens or installation.registry_users:
            raise BadRequest(
                "--mlflow-token and --mlflow-user belong to your own server", next_step="Give --mlflow-uri."
            )
        return
    if installation.registry_users and not installation.registry_tokens:
        raise BadRequest("--mlflow-user needs the password", next_step="Give --mlflow-token env:NAME or file:/path.")
    for reference in installation.registry_tokens.values():
        read_secret(reference)
    own_mlflow(installation, MLFLOW)


def _channels(given: Sequence[str]) -> dict[str, str]:
    """`NAME=REFERENCE` of each --notify. What is wrong is said without repeating it: it may be the secret itself."""
    found: dict[str, str] = {}
    for text in given:
        name, separator, reference = text.partition("=")
        if not separator or not re.search(NAME_PATTERN, name) or name in found:
            raise BadRequest(
                "--notify takes a name of its own and where the webhook's address lies",
                next_step="Write --notify ops=env:OPS_WEBHOOK, or ops=file:/absolute/path.",
            )
        found[name] = reference
    return found


def _say_registries(installation: Installation, say: Say) -> None:
    """Where versions come from, and whether it answers. One that does not is no reason not to serve."""
    from steersman.plugins.registries.directory import DirectoryRegistry
    from steersman.server.wiring import EMBEDDED, own_mlflow

    for name, address in installation.registries.items():
        if address == EMBEDDED:
            continue
        try:
            if address.startswith("directory:"):
                found = DirectoryRegistry(Path(address.removeprefix("directory:"))).check()
            else:
                found = own_mlflow(installation, name, timeout_s=REGISTRY_S).check()
            say(f"  registry {name}: {found}")
        except SteersmanError as error:
            say(f"  registry {name}: {error.message} {error.next_step}")


def _registries(mlflow_uri: str | None, mlflow: bool, registry: str | None) -> dict[str, str]:
    from steersman.server.wiring import EMBEDDED

    found: dict[str, str] = {}
    if mlflow_uri is not None:
        found["mlflow"] = mlflow_uri
    elif mlflow:
        found["mlflow"] = EMBEDDED
    if registry is not None:
        found["directory"] = f"directory:{Path(registry).resolve()}"
    return found


def _installation(state: Path, wanted: Installation, known: Installation | None) -> Installation:
    """What this start means. Ports of processes that still run from before are kept; a busy port is replaced and named."""
    control = read_handle(state / "run" / "control.json")
    routers = [read_handle(state / "run" / f"router-{number}.json") for number in range(known.routers if known else 0)]
    kept_port = known.port if known and control is not None and control.alive() else None
    kept_router = known.router_port if known and any(r is not None and r.alive() for r in routers) else None
    chosen = kept_port or free_port(wanted.host, wanted.port)
    chosen_router = kept_router or free_port(wanted.host, wanted.router_port, taken=frozenset({chosen}))
    for name, asked, kept, got in (
        ("port", wanted.port, kept_port, chosen),
        ("router port", wanted.router_port, kept_router, chosen_router),
    ):
        if asked != got:
            why = "keeps the one of the process that still runs:" if kept else f"{asked} is taken, using"
            print(f"{name} {why} {got}", flush=True)
    installation = msgspec.structs.replace(wanted, port=chosen, router_port=chosen_router)
    save(state, installation)
    return installation
