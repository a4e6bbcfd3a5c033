"""Registration: a version's files are fetched, judged by their bytes, hashed, and copied; from then on it is a digest.

A registry's word about a version (its format, its file) is a claim. What loads freely must be data only; a tree whose
loader would run code is refused unless a setting of this installation names the model.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from steersman.dataplane.artifacts import manifest
from steersman.dataplane.configuration import column_type
from steersman.dataplane.formats import UnknownFormatError, classify
from steersman.domain import spec
from steersman.domain.errors import VersionRefused
from steersman.domain.events import Action, Event
from steersman.domain.incident import Training
from steersman.domain.version import Column, Version
from steersman.loop.world import World, registry_of
from steersman.ports import Description
from steersman.store.transaction import Transaction

Record = Callable[[Transaction], None]


def register(
    world: World, model: spec.Model, number: int, *, actor: str, training: Training | None = None
) -> tuple[Version, Record]:
    """Fetch and judge version `number`; returns it and what to write, in the caller's transaction, to make it known.

    Raises VersionRefused (recorded in the ledger by the caller through `refusal`), NotFound, Unavailable.
    """
    registry = registry_of(world, model)
    name = model.spec.versions.name
    listed = next((v for v in registry.versions(name) if v.number == number), None)
    created_by = listed.created_by if listed else ""
    staging = Path(tempfile.mkdtemp(prefix="registering-", dir=_staging(world)))
    try:
        tree = staging / "tree"
        description = registry.fetch(name, number, tree)
        _judge(world, model, description, tree)
        digest = world.artifacts.put(tree)
        size = sum(file.bytes for file in manifest(tree))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    authors = (actor, created_by, *(("system",) if training else ()))
    version = Version(
        workspace=model.metadata.workspace,
        model=model.metadata.name,
        number=number,
        digest=digest,
        format=description.format,
        file=description.file,
        signature=tuple(
            Column(name=column.name, type=column_type(column.type), required=column.required)
            for column in description.signature
        ),
        output=description.output or "score",
        registered_at=world.clock.now(),
        registered_by=actor,
        author_chain=tuple(dict.fromkeys(author for author in authors if author)),
        source=listed.uri if listed else f"models:/{name}/{number}",
        training=training.id if training else None,
        trained_until=training.known_until if training else None,
        size_bytes=size,
    )
    return version, lambda tx: _record(tx, version, actor)


def _staging(world: World) -> Path:
    folder = world.jobs / "registering"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _judge(world: World, model: spec.Model, description: Description, tree: Path) -> None:
    claimed = None if description.file == "." else description.file
    try:
        found = classify(tree, format_claimed=description.format, file_claimed=claimed)
    except UnknownFormatError as error:
        raise VersionRefused(str(error)) from error
    full_name = f"{model.metadata.workspace}/{model.metadata.name}"
    if found.code_bearing and full_name not in world.code_models:
        raise VersionRefused(
            f"{found.format} files run code when they are loaded ({', '.join(found.code[:3]) or found.file})",
            next_step=f"Use a data-only format, or start with --allow-code {full_name} if you trust whoever writes there.",
        )


def _record(tx: Transaction, version: Version, actor: str) -> None:
    known = tx.version(version.workspace, version.model, version.number)
    if known is not None and known.digest == version.digest:
        return
    tx.put_version(version)
    tx.append(
        Event(
            action=Action.VERSION_REGISTERED,
            at=version.registered_at,
            actor=actor,
            workspace=version.workspace,
            kind="version",
            name=f"{version.model}/{version.number}",
            because=f"{version.format} model of {len(version.signature)} columns",
            data={"version": version.number, "digest": version.digest, "size_bytes": version.size_bytes},
        )
    )


def refusal(model: spec.Model, number: int, *, world: World, actor: str, because: str) -> Event:
    """What the ledger keeps of a version that was not let in."""
    return Event(
        action=Action.VERSION_REFUSED,
        at=world.clock.now(),
        actor=actor,
        workspace=model.metadata.workspace,
        kind="version",
        name=f"{model.metadata.name}/{number}",
        because=because,
        data={"version": number},
    )
