"""How the sample writes what happens: documents, entries, and the planner's moves, as the control server would."""

from datetime import datetime

from steersman.decide import rolling_out
from steersman.domain import spec
from steersman.domain.documents import canonical, digest
from steersman.domain.events import Action, Event
from steersman.domain.release import Release
from steersman.loop.entries import release_event
from steersman.store.records import StoredDocument, StoredVerdict
from steersman.store.transaction import Transaction


def declare(tx: Transaction, model: spec.Model, *, at: datetime, actor: str) -> StoredDocument:
    """The first revision of a model's document."""
    workspace, name = model.metadata.workspace, model.metadata.name
    stored = StoredDocument(
        kind="Model",
        workspace=workspace,
        name=name,
        revision=1,
        digest=digest(model),
        at=at,
        actor=actor,
        body=canonical(model).decode(),
    )
    tx.put_document(stored)
    data: dict[str, object] = {"digest": stored.digest, "revision": 1}
    say(
        tx, Action.DOCUMENT_APPLIED, at=at, actor=actor, kind="model", name=name, because="first revision", data=data,
        workspace=workspace,
    )  # fmt: skip
    return stored


def say(
    tx: Transaction,
    action: Action,
    *,
    at: datetime,
    actor: str,
    kind: str,
    name: str,
    because: str,
    data: dict[str, object] | None = None,
    workspace: str = "ops",
) -> None:
    """An entry about something that is no release."""
    event = Event(
        action=action, at=at, actor=actor, workspace=workspace, kind=kind, name=name, because=because, data=data or {}
    )
    tx.append(event)


def say_release(
    tx: Transaction, release: Release, action: Action, because: str, *, at: datetime, actor: str, data: object = None
) -> None:
    """An entry about a release; without `data` it names the release's number and version."""
    more = data if isinstance(data, dict) else {"release": release.number, "version": release.version}
    tx.append(release_event(release, action, at=at, actor=actor, because=because, data=more))


def carry_out(
    tx: Transaction, release: Release, move: rolling_out.Move, *, now: datetime, actor: str = "system"
) -> Release:
    """The release as the move makes it, with its evidence and its entries."""
    for evidence in move.evidence:
        tx.add_verdict(
            StoredVerdict(subject=release.id, kind=evidence.kind, step=release.step, at=now, body=evidence.kept)
        )
    for note in move.notes:
        say_release(tx, release, note.action, note.because, at=now, actor=actor, data=note.data or None)
    return tx.save_release(release, move.release)
