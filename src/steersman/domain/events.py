"""What the ledger records: one closed vocabulary of actions, shown under the same word everywhere.

An event carries no measurement of the machine (durations, CPU, addresses): what is decided and recorded depends on
event time only, so that a replay from the same seed writes the same story.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class Action(StrEnum):
    """Each member's value is what stands in the ledger; ACTIONS says in words what it means."""

    DOCUMENT_APPLIED = "document.applied"
    VERSION_REGISTERED = "version.registered"
    VERSION_REFUSED = "version.refused"
    VERSION_CHECKED = "version.checked"
    VERSION_RETIRED = "version.retired"
    RELEASE_OPENED = "release.opened"
    GATES_PASSED = "release.gated"
    GATES_FAILED = "release.gate_failed"
    RELEASE_APPROVED = "release.approved"
    APPROVAL_WITHDRAWN = "release.approval_withdrawn"
    RELEASE_REJECTED = "release.rejected"
    STEP_STARTED = "release.step_started"
    STEP_SKIPPED = "release.step_skipped"
    ANALYSIS_CONCLUDED = "release.analysed"
    GUARDRAIL_BROKEN = "release.guardrail_broken"
    RELEASE_PAUSED = "release.paused"
    RELEASE_RESUMED = "release.resumed"
    RELEASE_PROMOTED = "release.promoted"
    RELEASE_DEGRADED = "release.degraded"
    RELEASE_COMPLETED = "release.completed"
    ROLLBACK_REQUESTED = "rollback.requested"
    WAIVER_GRANTED = "waiver.granted"
    CHALLENGER_SET = "challenger.set"
    MANUAL_CHANGE_REFUSED = "manual_change.refused"
    MANUAL_CHANGE_OBSERVED = "manual_change.observed"
    FINDING_OPENED = "finding.opened"
    INCIDENT_OPENED = "incident.opened"
    INCIDENT_TRIAGED = "incident.triaged"
    INCIDENT_RECOVERED = "incident.recovered"
    INCIDENT_CLOSED = "incident.closed"
    INCIDENT_ACCEPTED = "incident.accepted"
    TRAINING_STARTED = "training.started"
    TRAINING_FINISHED = "training.finished"
    TRAINING_FAILED = "training.failed"
    REPLICA_LOST = "replica.lost"
    OPERATION_FAILED = "operation.failed"
    LOG_EXPIRED = "log.expired"
    LOG_ERASURE_REQUESTED = "log.erasure_requested"
    LOG_ERASED = "log.erased"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - a word of the ledger, not a secret
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    USER_CHANGED = "user.changed"
    CONTROL_STARTED = "control.started"


ACTIONS: dict[Action, str] = {
    Action.DOCUMENT_APPLIED: "a Model, Dataset or Environment document became the declared state",
    Action.VERSION_REGISTERED: "a version's files were hashed and copied; its digest is what everything names from now on",
    Action.VERSION_REFUSED: "a version could not be registered: its format, files or origin are not trusted",
    Action.VERSION_CHECKED: "a version's own tests and its gates were run, without a release",
    Action.VERSION_RETIRED: "a version was drained and may not be released again",
    Action.RELEASE_OPENED: "a version was asked to enter an environment",
    Action.GATES_PASSED: "every gate before traffic passed or did not apply",
    Action.GATES_FAILED: "a gate before traffic did not pass",
    Action.RELEASE_APPROVED: "a person with the role agreed",
    Action.APPROVAL_WITHDRAWN: "an approval counts no longer: its giver took it back, or what it was given for changed",
    Action.RELEASE_REJECTED: "a person with the role disagreed",
    Action.STEP_STARTED: "the traffic a step asks for is in effect",
    Action.STEP_SKIPPED: "an analysis or a pause was passed over: a person promoted, or a waiver allows it",
    Action.ANALYSIS_CONCLUDED: "an analysis reached its verdict",
    Action.GUARDRAIL_BROKEN: "a limit on errors or latency was broken by the candidate, on copies of requests or in service",
    Action.RELEASE_PAUSED: "the release waits for a person",
    Action.RELEASE_RESUMED: "a person let the release go on",
    Action.RELEASE_PROMOTED: "the version became the environment's stable one",
    Action.RELEASE_DEGRADED: "the release failed; traffic goes back to the previous version",
    Action.RELEASE_COMPLETED: "the release reached its end",
    Action.ROLLBACK_REQUESTED: "a person asked for the version that answered before",
    Action.WAIVER_GRANTED: "a person let one version skip a step, or the environment before, once",
    Action.CHALLENGER_SET: "a freshly trained version is scored on the same traffic, in the shadow",
    Action.MANUAL_CHANGE_REFUSED: "someone tried to change production without a release and was refused",
    Action.MANUAL_CHANGE_OBSERVED: "something changed outside Steersman and was found by comparison",
    Action.FINDING_OPENED: "a monitor's verdict turned bad",
    Action.INCIDENT_OPENED: "findings of one cause became an incident",
    Action.INCIDENT_TRIAGED: "the remedy was chosen, with its reason",
    Action.INCIDENT_RECOVERED: "recovery was verified on matured labels, in pairs against the replaced version",
    Action.INCIDENT_CLOSED: "the incident is over",
    Action.INCIDENT_ACCEPTED: "a person accepted the incident as it is",
    Action.TRAINING_STARTED: "a training run began on a pinned snapshot of matured data",
    Action.TRAINING_FINISHED: "a training run registered a version",
    Action.TRAINING_FAILED: "a training run ended without a version",
    Action.REPLICA_LOST: "a replica that should run was gone and was started again",
    Action.OPERATION_FAILED: "a side effect could not be carried out within its attempts",
    Action.LOG_EXPIRED: "rows of the inference log older than the model's retention were deleted, files included",
    Action.LOG_ERASURE_REQUESTED: "a person asked that one entity's rows of the inference log be deleted",
    Action.LOG_ERASED: "one entity's rows were deleted, files included; whose they were is recorded nowhere",
    Action.TOKEN_ISSUED: "a token was issued; only its hash is kept",
    Action.TOKEN_REVOKED: "a token was revoked",
    Action.USER_CHANGED: "a user's roles changed",
    Action.CONTROL_STARTED: "the control server started and took up where it was",
}

if set(ACTIONS) != set(Action):
    raise ImportError("an action has no row in steersman.domain.events.ACTIONS")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened, before the store gives it an index. `data` holds strings, ints, bools, lists, maps; no floats."""

    action: Action
    at: datetime
    actor: str
    workspace: str
    kind: str
    name: str
    because: str
    data: dict[str, Any] = {}
    request_id: str | None = None
