"""Everything the loops may touch, as ports, in one place; `server/wiring.py` fills it with plugins."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from steersman.dataplane.artifacts import ArtifactStore
from steersman.dataplane.configuration import TokenHash
from steersman.domain import spec
from steersman.domain.errors import NotFound
from steersman.domain.linting import environment_spec
from steersman.loop.clock import Clock
from steersman.ports import (
    Datasets,
    InferenceLog,
    InstalledMetric,
    Notifier,
    Registry,
    RouterControl,
    Scorer,
    Target,
    Trainer,
)
from steersman.store.database import Store
from steersman.store.records import StoredDocument
from steersman.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`code_models` are the `workspace/model` names this installation trusts to carry code (pickle, pyfunc).
    `document_root` is what relative paths in documents start from. `train_environment` adds to a job's environment
    (the registry's address and a token for that model), by workspace and model. `metrics` are those of installed
    distributions, by entry point."""

    store: Store
    clock: Clock
    registries: Mapping[str, Registry]
    target: Target
    trainer: Trainer
    datasets: Datasets
    scorer: Scorer
    router: RouterControl
    log: InferenceLog
    artifacts: ArtifactStore
    notifier: Notifier
    jobs: Path
    document_root: Path
    code_models: frozenset[str] = frozenset()
    train_environment: Callable[[str, str], Mapping[str, str]] = lambda _workspace, _model: {}
    tokens: Callable[[], tuple[TokenHash, ...]] = tuple
    metrics: Mapping[str, InstalledMetric] = field(default_factory=dict)


def registry_of(world: World, model: spec.Model) -> Registry:
    name = model.spec.versions.registry
    if name not in world.registries:
        raise NotFound(
            f"model {model.metadata.name} names the registry {name!r}, this installation has: "
            f"{', '.join(sorted(world.registries)) or 'none'}",
            next_step="Correct spec.versions.registry; `steersman up --registry DIR` adds the registry `directory`.",
        )
    return world.registries[name]


def decode_model(document: StoredDocument) -> spec.Model:
    from steersman.domain.documents import parse_document

    parsed = parse_document(msgspec.json.decode(document.body))
    if not isinstance(parsed, spec.Model):
        raise TypeError(f"{document.kind} {document.name} is no Model")
    return parsed


def environment_of(tx: Transaction, workspace: str, name: str) -> spec.EnvironmentSpec:
    """What an environment is: as its document says, else as it exists without one."""
    from steersman.domain.documents import parse_document

    stored = tx.document("Environment", workspace, name)
    if stored is None:
        return environment_spec(name)
    parsed = parse_document(msgspec.json.decode(stored.body))
    if not isinstance(parsed, spec.Environment):
        raise TypeError(f"{stored.kind} {stored.name} is no Environment")
    return parsed.spec


def in_order(tx: Transaction, workspace: str, names: Iterable[str]) -> tuple[str, ...]:
    """Environments as they are shown: by the order their documents give, then by name."""
    return tuple(sorted(names, key=lambda name: (environment_of(tx, workspace, name).order, name)))


class Documents:
    """Decoded documents by digest: a revision never changes, so it is decoded once."""

    def __init__(self) -> None:
        self._models: dict[str, spec.Model] = {}

    def model(self, tx: Transaction, workspace: str, name: str) -> spec.Model:
        stored = tx.document("Model", workspace, name)
        if stored is None:
            raise NotFound(
                f"no model {name!r} in workspace {workspace!r}",
                next_step="Apply its document first: steersman apply model.yaml",
            )
        return self._decoded(stored)

    def revision(self, tx: Transaction, digest: str) -> spec.Model:
        if digest in self._models:
            return self._models[digest]
        stored = tx.document_by_digest(digest)
        if stored is None:
            raise NotFound(f"the document {digest} is not in the database")
        return self._decoded(stored)

    def models(self, tx: Transaction) -> list[spec.Model]:
        return [self._decoded(stored) for stored in tx.documents("Model")]

    def _decoded(self, stored: StoredDocument) -> spec.Model:
        if stored.digest not in self._models:
            self._models[stored.digest] = decode_model(stored)
        return self._models[stored.digest]
