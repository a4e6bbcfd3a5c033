"""The ledger as people read it: entries in words, the checkpoint, and whether the whole still adds up."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from steersman.domain.access import EVERY_WORKSPACE, Access, Permission
from steersman.domain.events import ACTIONS, Action
from steersman.ledger.checkpoint import Checkpoint, CheckpointError, VerifierKey, parse_checkpoint, verify_checkpoint
from steersman.ledger.entry import Entry, parse_entry
from steersman.ledger.merkle import leaf_hash, root_of
from steersman.store.ledger_log import LedgerRow
from steersman.store.transaction import Transaction

ENTRIES_PER_PAGE = 50

ENTRIES_CHECKED_MAX = 20_000
"""Entries a page hashes again before it is shown: about 50 ms of CPU. Beyond it the command line verifies."""

TONE_OF_ACTION: dict[str, str] = {
    Action.RELEASE_PROMOTED: "good",
    Action.RELEASE_APPROVED: "good",
    Action.GATES_PASSED: "good",
    Action.INCIDENT_RECOVERED: "good",
    Action.INCIDENT_CLOSED: "good",
    Action.TRAINING_FINISHED: "good",
    Action.GATES_FAILED: "bad",
    Action.GUARDRAIL_BROKEN: "bad",
    Action.RELEASE_DEGRADED: "bad",
    Action.RELEASE_REJECTED: "bad",
    Action.INCIDENT_OPENED: "bad",
    Action.FINDING_OPENED: "bad",
    Action.TRAINING_FAILED: "bad",
    Action.VERSION_REFUSED: "bad",
    Action.OPERATION_FAILED: "bad",
    Action.MANUAL_CHANGE_REFUSED: "warn",
    Action.MANUAL_CHANGE_OBSERVED: "warn",
    Action.ROLLBACK_REQUESTED: "warn",
    Action.RELEASE_PAUSED: "wait",
    Action.REPLICA_LOST: "warn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    index: int
    at: datetime
    recorded_at: datetime
    action: str
    meaning: str
    tone: str
    actor: str
    actor_kind: str
    kind: str
    workspace: str
    name: str
    because: str
    data: str
    id: str
    leaf: str
    incident: str

    @property
    def href(self) -> str:
        """The page about the object, where there is one: an incident's own, else its model's."""
        if self.kind == "incident":
            return f"/incidents/{quote(self.incident or self.name)}"
        if self.kind in ("release", "version", "model", "training"):
            return f"/models/{quote(self.workspace)}/{quote(self.name.partition('/')[0])}"
        return ""

    @property
    def shown(self) -> str:
        """The object's name; an identifier is cut, its page has the whole."""
        return f"{self.name[:12]}…" if self.name.startswith("inc-") else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What hashing everything again showed. `ok` is None where nothing was checked."""

    ok: bool | None
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPage:
    entries: tuple[EntryView, ...]
    size: int
    root: str
    page: int
    pages: int
    checkpoint: str | None
    checkpoint_size: int | None
    verified: Verified
    key: str | None


def entry_view(row: LedgerRow) -> EntryView:
    entry = parse_entry(row.body)
    return EntryView(
        index=row.index,
        at=entry.at,
        recorded_at=entry.recorded_at,
        action=entry.action,
        meaning=ACTIONS[Action(entry.action)] if entry.action in set(Action) else "",
        tone=TONE_OF_ACTION.get(entry.action, "quiet"),
        actor=entry.actor.subject,
        actor_kind=entry.actor.kind,
        kind=entry.object.kind,
        workspace=entry.object.workspace,
        name=entry.object.name,
        because=entry.because,
        data=_data(entry),
        id=entry.id,
        leaf=leaf_hash(row.body).hex(),
        incident=str(entry.data.get("incident") or ""),
    )


def visible(entries: Iterable[EntryView], access: Access) -> tuple[EntryView, ...]:
    """Entries of workspaces whose ledger the visitor may read."""
    return tuple(e for e in entries if access.allows(Permission.LEDGER_READ, e.workspace or EVERY_WORKSPACE))


def ledger_page(tx: Transaction, access: Access, *, page: int, key: VerifierKey | None) -> LedgerPage:
    """Newest entries first. Page 1 is the newest; a page beyond the last is the last."""
    size = tx.ledger.size()
    pages = max((size + ENTRIES_PER_PAGE - 1) // ENTRIES_PER_PAGE, 1)
    page = min(max(page, 1), pages)
    stop = size - (page - 1) * ENTRIES_PER_PAGE
    start = max(stop - ENTRIES_PER_PAGE, 0)
    rows = [entry_view(row) for row in tx.ledger.rows(start, stop - start)]
    note = tx.ledger.checkpoint()
    return LedgerPage(
        entries=visible(reversed(rows), access),
        size=size,
        root=base64.b64encode(tx.ledger.root()).decode(),
        page=page,
        pages=pages,
        checkpoint=note,
        checkpoint_size=None if note is None else _size(note),
        verified=verify(tx, note, key),
        key=None if key is None else str(key),
    )


def verify(tx: Transaction, note: str | None, key: VerifierKey | None) -> Verified:
    """Hash every stored entry again and compare with the tree's root and with the signed checkpoint."""
    size = tx.ledger.size()
    if size > ENTRIES_CHECKED_MAX:
        return Verified(ok=None, because=f"{size} entries are not hashed for a page; run steersman ledger verify")
    leaves = [leaf_hash(row.body) for row in tx.ledger.rows()]
    if len(leaves) != size or root_of(leaves, size) != tx.ledger.root():
        return Verified(ok=False, because=f"the {len(leaves)} stored entries do not give the root the ledger keeps")
    if note is None:
        return Verified(ok=True, because=f"{size} entries give the root; no checkpoint has been signed yet")
    try:
        signed: Checkpoint = parse_checkpoint(note) if key is None else verify_checkpoint(note, key)
    except CheckpointError as error:
        return Verified(ok=False, because=str(error))
    if signed.size > size or root_of(leaves, signed.size) != signed.root:
        return Verified(ok=False, because=f"the first {signed.size} entries are not those of the signed checkpoint")
    shown = f"{size} entries give the root, and the first {signed.size} are those of the signed checkpoint"
    return Verified(ok=True, because=shown if key is not None else f"{shown}; its signature was not checked here")


def _size(note: str) -> int | None:
    try:
        return parse_checkpoint(note).size
    except CheckpointError:
        return None


def _data(entry: Entry) -> str:
    return json.dumps(entry.data, indent=2, ensure_ascii=False, sort_keys=True) if entry.data else ""
