"""Takes approvals back: what people agreed to and is no longer as it was."""

from datetime import datetime

import msgspec

from steersman.decide.steering import approval_step
from steersman.domain.events import Action
from steersman.domain.release import Release
from steersman.loop.entries import release_event
from steersman.loop.gathering import binding_of
from steersman.store.records import Approval
from steersman.store.transaction import Transaction


def withdraw_outdated(tx: Transaction, release: Release, *, actor: str, now: datetime) -> None:
    """Take back what was agreed to and is no longer as it was; whoever agreed may look again and agree anew."""
    present, step = binding_of(tx, release), approval_step(release)
    for approval in tx.agreements.approvals(release.id):
        if approval.step != step or approval.withdrawn is not None or approval.bound is None:
            continue
        changed = approval.bound.changed(present)
        if changed is not None:
            said = f"the approval of {approval.actor} counts no longer: {changed} since"
            void(tx, release, approval, because=said, actor=actor, now=now)


def void(tx: Transaction, release: Release, approval: Approval, *, because: str, actor: str, now: datetime) -> None:
    """From now on the approval counts no longer; the row stays, with the reason."""
    tx.agreements.put_approval(msgspec.structs.replace(approval, withdrawn=because))
    data: dict[str, object] = {"release": release.number, "step": approval.step, "approver": approval.actor}
    tx.append(release_event(release, Action.APPROVAL_WITHDRAWN, at=now, actor=actor, because=because, data=data))
