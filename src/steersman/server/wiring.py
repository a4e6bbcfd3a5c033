"""The one place that knows concrete plugins: it puts each behind its port and hands the loops a `World`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steersman.dataplane.artifacts import ArtifactStore
from steersman.dataplane.configuration import TokenHash
from steersman.dataplane.storage import open_storage
from steersman.domain.access import Access, Grant, Kind, Permission, Role, Secret
from steersman.domain.errors import Misconfigured, NotAuthenticated, NotFound
from steersman.domain.events import Action, Event
from steersman.ledger.checkpoint import VerifierKey, generate_key, load_key, sign_checkpoint
from steersman.loop.clock import open_clock
from steersman.loop.commands import Commands
from steersman.loop.control import Control
from steersman.loop.world import Documents, World
from steersman.plugins.identity.tokens import Identities
from steersman.plugins.metrics.entry_points import installed_metrics
from steersman.plugins.notifiers.outbox import Outbox
from steersman.plugins.notifiers.webhook import Webhook
from steersman.plugins.registries.directory import DirectoryRegistry
from steersman.plugins.registries.mlflow import MlflowRegistry
from steersman.plugins.registries.mlflow_rest import TIMEOUT_S, MlflowRest, basic, bearer
from steersman.plugins.secrets import read_secret
from steersman.plugins.tables.datasets import ParquetDatasets
from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.plugins.targets.local import LocalTarget
from steersman.plugins.targets.scorer import WorkerScorer
from steersman.plugins.trainers.command import CommandTrainer
from steersman.ports import Registry
from steersman.server.embedded_mlflow import EmbeddedMlflow, protection_file, registry
from steersman.server.installation import Installation
from steersman.server.router_control import RouterSockets
from steersman.store.database import Store
from steersman_mlflow_guard import protection

ORIGIN = "steersman"
"""Name of the ledger in its checkpoints and verifier key; an installation may not change it later."""

EMBEDDED = "embedded"
"""The address of the MLflow that `steersman up` starts."""

MLFLOW = "mlflow"
"""The name documents have for an installation's MLflow, embedded or a team's own."""

TRAINER = "trainer"
"""The service a training run calls the registry as."""

TRAINER_TOKEN_LIFE = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A control server's parts, ready to serve."""

    installation: Installation
    state: Path
    store: Store
    world: World
    documents: Documents
    control: Control
    commands: Commands
    key: Ed25519PrivateKey
    mlflow: EmbeddedMlflow | None

    @property
    def verifier_key(self) -> VerifierKey:
        return VerifierKey.of(ORIGIN, self.key)


def assemble(state: Path, installation: Installation, mlflow: EmbeddedMlflow | None) -> Assembled:
    """Open the state directory and connect everything. Raises Misconfigured with the next step."""
    state = state.resolve()
    store = Store.at(state)
    clock = open_clock(store, replay_from=installation.replay_from)
    documents = Documents()
    log = DeltaInferenceLog(state, open_storage(state), entity_horizon=EntityHorizons(store, documents).of)
    trainer_tokens = TrainerTokens(store, installation)
    world = World(
        store=store,
        clock=clock,
        registries=_registries(installation, mlflow),
        target=LocalTarget(state),
        trainer=CommandTrainer(state, readable=()),
        datasets=ParquetDatasets(log),
        scorer=WorkerScorer(),
        router=RouterSockets(state, installation.routers),
        log=log,
        artifacts=ArtifactStore(state / "artifacts"),
        notifier=outbox(installation),
        jobs=state / "jobs",
        document_root=Path.cwd(),
        code_models=frozenset(installation.code_models),
        train_environment=trainer_tokens.environment,
        tokens=RouterTokens(store).hashes,
        metrics=installed_metrics(),
    )
    # One control server to a state directory: the next one takes its predecessor's operations over at once, instead of
    # waiting for leases of a process that is gone; a result of the old one is refused by its epoch.
    control = Control(world, documents, owner="control")
    commands = Commands(world, documents, control.reconciler)
    assembled = Assembled(
        installation=installation,
        state=state,
        store=store,
        world=world,
        documents=documents,
        control=control,
        commands=commands,
        key=ledger_key(state),
        mlflow=mlflow,
    )
    store.on_commit(control.wake)
    store.on_commit(Guarding(state, store, documents).write)
    return assembled


def _registries(installation: Installation, mlflow: EmbeddedMlflow | None) -> dict[str, Registry]:
    found: dict[str, Registry] = {}
    for name, address in installation.registries.items():
        if address == EMBEDDED:
            if mlflow is None:
                raise Misconfigured("the embedded MLflow is not running", next_step="Start with `steersman up`.")
            found[name] = registry(mlflow)
        elif address.startswith("directory:"):
            found[name] = DirectoryRegistry(Path(address.removeprefix("directory:")))
        else:
            found[name] = own_mlflow(installation, name)
    return found


def outbox(installation: Installation) -> Outbox:
    """The channels people are told through. Raises BadRequest or Misconfigured for one that can never be reached."""
    webhooks = {
        name: Webhook(url=read_secret(reference), private_networks=installation.notify_networks)
        for name, reference in installation.notify.items()
    }
    return Outbox(webhooks)


def own_mlflow(installation: Installation, name: str, *, timeout_s: float = TIMEOUT_S) -> MlflowRegistry:
    """A team's own server. Its token is read at every request, so one that is replaced needs no restart."""
    reference, user = installation.registry_tokens.get(name), installation.registry_users.get(name)

    def identified(method: str, target: str) -> Mapping[str, str]:
        if reference is None:
            return {}
        secret = read_secret(reference).reveal()
        return (basic(user, secret) if user else bearer(secret))(method, target)

    return MlflowRegistry(MlflowRest(installation.registries[name], headers=identified, timeout_s=timeout_s))


def ledger_key(state: Path) -> Ed25519PrivateKey:
    """The key that signs checkpoints; made at the first start, readable by this user only."""
    keys = state / "keys"
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = keys / "ledger.pem"
    return load_key(path) if path.exists() else generate_key(path)


def checkpoint(assembled: Assembled) -> str:
    """The ledger's newest signed checkpoint; signed now if entries were added since the last."""
    with assembled.store.write() as tx:
        size, root = tx.ledger.size(), tx.ledger.root()
        note = sign_checkpoint(ORIGIN, size, root, assembled.key)
        tx.ledger.put_checkpoint(size, note)
    return note


def wall() -> datetime:
    return datetime.now(UTC)


class EntityHorizons:
    """How long labels about an entity may be after its prediction: where a model's document says that labels name it."""

    def __init__(self, store: Store, documents: Documents) -> None:
        self._store = store
        self._documents = documents

    def of(self, workspace: str, model: str) -> timedelta | None:
        with self._store.read() as tx:
            try:
                found = self._documents.model(tx, workspace, model).spec
            except NotFound:
                return None
        truth = found.ground_truth
        return truth.horizon if truth is not None and truth.key == found.serving.sticky_by else None


class Authentication:
    """Who is behind a credential, from the store's rows. One read a request; tokens are compared by hash."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def token(self, presented: Secret) -> Access:
        with self._store.read() as tx:
            return Identities(tx.credentials).authenticate_token(presented, wall())

    def session(self, presented: Secret) -> Access:
        with self._store.read() as tx:
            return Identities(tx.credentials).authenticate_session(presented, wall())


class RouterTokens:
    """Hashes of the tokens the router lets in, read again when something was committed long enough ago."""

    REREAD_S = 2.0
    """A revocation reaches the router's configuration within this time and the loop's turn: below 5 s together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_at = float("-inf")
        self._hashes: tuple[TokenHash, ...] = ()

    def hashes(self) -> tuple[TokenHash, ...]:
        if time.monotonic() - self._read_at > self.REREAD_S:
            with self._store.read() as tx:
                self._hashes = Identities(tx.credentials).router_tokens(wall())
            self._read_at = time.monotonic()
        return self._hashes


class TrainerTokens:
    """What a training run is given of MLflow: its address, and who it is there.

    Of the embedded one the address through our guard and a token for one day; of a team's own server the installation's
    own credentials, because there are no others.
    """

    def __init__(self, store: Store, installation: Installation) -> None:
        self._store = store
        self._installation = installation
        self._known: dict[str, tuple[Secret, datetime]] = {}

    def environment(self, workspace: str, _model: str) -> Mapping[str, str]:
        address = self._installation.registries.get(MLFLOW)
        if address is None:
            return {}
        given = self._embedded(workspace) if address == EMBEDDED else self._own(address)
        return {**given, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}

    def _own(self, address: str) -> dict[str, str]:
        reference = self._installation.registry_tokens.get(MLFLOW)
        user = self._installation.registry_users.get(MLFLOW)
        if reference is None:
            return {"MLFLOW_TRACKING_URI": address}
        secret = read_secret(reference).reveal()
        if user:
            return {
                "MLFLOW_TRACKING_URI": address,
                "MLFLOW_TRACKING_USERNAME": user,
                "MLFLOW_TRACKING_PASSWORD": secret,
            }
        return {"MLFLOW_TRACKING_URI": address, "MLFLOW_TRACKING_TOKEN": secret}

    def _embedded(self, workspace: str) -> dict[str, str]:
        token, until = self._known.get(workspace, (None, None))
        if token is None or until is None or until - wall() < TRAINER_TOKEN_LIFE / 2:
            token = self._issue(workspace)
            self._known[workspace] = (token, wall() + TRAINER_TOKEN_LIFE)
        return {
            "MLFLOW_TRACKING_URI": f"{self._installation.url}/mlflow",
            "MLFLOW_TRACKING_TOKEN": token.reveal(),
        }

    def _issue(self, workspace: str) -> Secret:
        with self._store.write() as tx:
            _, token = Identities(tx.credentials).issue_token(
                subject=TRAINER,
                kind=Kind.SERVICE,
                owner=ADMIN,
                now=wall(),
                roles=(Role.OPERATOR,),
                workspace=workspace,
                permissions=(Permission.REGISTRY_READ, Permission.REGISTRY_WRITE),
                life=TRAINER_TOKEN_LIFE,
            )
        return token


ADMIN = "admin"
"""The first person of an installation; who they really are is told by renaming roles, not by a default password."""


def first_admin(store: Store, *, known: Secret | None, at: datetime) -> Secret:
    """Make the first admin if nobody is there, and a token for the credentials file of the state directory.

    The token `known` from an earlier start is kept while it is valid for a while; an older one is replaced. `at` is
    event time, for the ledger.
    """
    with store.write() as tx:
        identities = Identities(tx.credentials)
        if not tx.credentials.users():
            grants = (Grant(role=Role.ADMIN), Grant(role=Role.OPERATOR))
            identities.set_user(ADMIN, grants, wall())
            tx.append(_people_event(Action.USER_CHANGED, at, "the first admin of the installation", {"admin": True}))
        if known is not None and _stands(identities, known):
            return known
        row, token = identities.issue_token(
            subject=ADMIN, kind=Kind.HUMAN, owner=ADMIN, now=wall(), roles=(Role.ADMIN, Role.OPERATOR)
        )
        because = "a token for the credentials file of the state directory"
        tx.append(_people_event(Action.TOKEN_ISSUED, at, because, {"token": row.id}))
    return token


def _stands(identities: Identities, token: Secret) -> bool:
    """Whether a token will still be good in a week."""
    try:
        identities.authenticate_token(token, wall() + timedelta(days=7))
    except NotAuthenticated:
        return False
    return True


def _people_event(action: Action, at: datetime, because: str, data: dict[str, object]) -> Event:
    return Event(
        action=action, at=at, actor="system", workspace="*", kind="user", name=ADMIN, because=because, data=data
    )


def login_code(store: Store, subject: str = ADMIN) -> Secret:
    """A one-time code for the console's login form."""
    with store.write() as tx:
        return Identities(tx.credentials).issue_login_code(subject, wall())


class Guarding:
    """Tells the guard inside MLflow which versions are released, after each commit that may have changed it."""

    def __init__(self, state: Path, store: Store, documents: Documents) -> None:
        self._path = protection_file(state)
        self._store = store
        self._documents = documents
        self._written: bytes | None = None

    def write(self) -> None:
        with self._store.read() as tx:
            released: dict[str, set[int]] = {}
            for model in self._documents.models(tx):
                numbers = released.setdefault(model.spec.versions.name, set())
                numbers.update(v.number for v in tx.versions(model.metadata.workspace, model.metadata.name))
        frozen = {name: frozenset(numbers) for name, numbers in released.items()}
        said = msgspec.json.encode({name: sorted(numbers) for name, numbers in sorted(frozen.items())})
        if said != self._written and self._path.parent.is_dir():
            protection.write(self._path, protection.Protection(released=frozen))
            self._written = said
