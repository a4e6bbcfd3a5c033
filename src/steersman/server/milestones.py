"""The points of a version's life, when each was reached: what `history` tells beside the release.

A milestone is not a state that is kept somewhere: it is read from what happened, so it cannot contradict the ledger.
"""

from datetime import datetime

from steersman.domain.events import Action
from steersman.domain.incident import Purpose
from steersman.domain.release import Release
from steersman.domain.version import Milestone
from steersman.ledger.entry import Entry, parse_entry
from steersman.store.ledger_log import LedgerRow
from steersman.store.transaction import Transaction

_ACTIONS = {
    Action.GATES_PASSED: Milestone.GATED,
    Action.RELEASE_APPROVED: Milestone.APPROVED,
    Action.RELEASE_PROMOTED: Milestone.PROMOTED,
}


def milestones(tx: Transaction, release: Release, entries: list[LedgerRow]) -> dict[Milestone, datetime]:
    """First time each milestone was reached by the release's version in its environment; `entries` are the release's."""
    reached: dict[Milestone, datetime] = {}
    for row in entries:
        entry = parse_entry(row.body)
        milestone = _milestone(entry)
        if milestone is not None:
            reached.setdefault(milestone, entry.at)
    reached |= _registered_and_retired(tx, release)
    windows = tx.evidence.windows(release.workspace, release.environment, release.model, digest=release.digest)
    if windows:
        reached[Milestone.OBSERVED] = windows[0].end
    reached |= _went_wrong(tx, release)
    return {milestone: reached[milestone] for milestone in Milestone if milestone in reached}


def _milestone(entry: Entry) -> Milestone | None:
    if entry.action != Action.STEP_STARTED:
        return _ACTIONS.get(Action(entry.action))
    kind = str(entry.data.get("kind", ""))
    if kind.startswith("mirror"):
        return Milestone.MIRRORED
    return Milestone.CANARIED if 0 < float(str(entry.data["weight_pct"])) < 100 else None


def _registered_and_retired(tx: Transaction, release: Release) -> dict[Milestone, datetime]:
    version = tx.version(release.workspace, release.model, release.version)
    if version is None:
        return {}
    retired = {Milestone.RETIRED: version.retired_at} if version.retired_at is not None else {}
    return {Milestone.REGISTERED: version.registered_at, **retired}


def _went_wrong(tx: Transaction, release: Release) -> dict[Milestone, datetime]:
    """A finding about the version, its incident, and the training that answered it."""
    place = (release.workspace, release.model)
    about = [f for f in tx.findings(*place) if (f.version, f.environment) == (release.version, release.environment)]
    if not about:
        return {}
    reached = {Milestone.DRIFTED: min(finding.found_at for finding in about)}
    incidents = {finding.incident for finding in about if finding.incident is not None}
    detected = [incident.detected_at for incident in tx.incidents(*place) if incident.id in incidents]
    if detected:
        reached[Milestone.INCIDENT] = min(detected)
    trained = [
        training.finished_at
        for training in tx.trainings(*place)
        if training.purpose is Purpose.RETRAIN and training.incident in incidents and training.version is not None
        if training.finished_at is not None
    ]
    if trained:
        reached[Milestone.RETRAINED] = min(trained)
    return reached
