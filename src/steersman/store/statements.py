"""Every statement of the store that is asked again and again, built once.

SQLAlchemy remembers the SQL it compiled, but building a statement anew at each call, and the key it is remembered under,
costs several times what SQLite needs to answer: the loop asks some fifty questions a turn. Values are bound by the names
of the columns they are compared with; in an `UPDATE`, whose columns have those names already, by `is_` and the name.
"""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from steersman.domain.incident import IncidentState
from steersman.domain.operation import OperationState
from steersman.store import tables as t

Condition = sa.ColumnElement[bool]


def equal(table: sa.Table, *names: str) -> Condition:
    """These columns have the values bound by their names."""
    return sa.and_(*(table.c[name] == bindparam(name) for name in names))


def was(table: sa.Table, *names: str) -> Condition:
    """As `equal`, for an `UPDATE`: the values are bound by `is_` and the name."""
    return sa.and_(*(table.c[name] == bindparam(f"is_{name}") for name in names))


MODEL = ("workspace", "model")
PLACE = ("workspace", "model", "environment")

# --- the installation's settings

SETTING = sa.select(t.installation.c.value).where(equal(t.installation, "name"))
DELETE_SETTING = sa.delete(t.installation).where(equal(t.installation, "name"))
INSERT_SETTING = sa.insert(t.installation)

# --- documents

DOCUMENT_COLUMNS = ("kind", "workspace", "name", "revision", "digest", "at", "actor", "body")
_columns = [t.document.c[name] for name in DOCUMENT_COLUMNS]
INSERT_DOCUMENT = sa.insert(t.document)
DOCUMENT = (
    sa.select(*_columns)
    .where(equal(t.document, "kind", "workspace", "name"))
    .order_by(t.document.c.revision.desc())
    .limit(sa.literal_column("1"))
)
DOCUMENT_BY_DIGEST = sa.select(*_columns).where(equal(t.document, "digest")).limit(sa.literal_column("1"))
_newest = (
    sa.select(t.document.c.workspace, t.document.c.name, sa.func.max(t.document.c.revision).label("revision"))
    .where(equal(t.document, "kind"))
    .group_by(t.document.c.workspace, t.document.c.name)
    .subquery()
)
DOCUMENTS = (
    sa.select(*_columns)
    .join(
        _newest,
        (t.document.c.workspace == _newest.c.workspace)
        & (t.document.c.name == _newest.c.name)
        & (t.document.c.revision == _newest.c.revision),
    )
    .where(equal(t.document, "kind"))
    .order_by(t.document.c.workspace, t.document.c.name)
)

# --- versions

VERSION = sa.select(t.version.c.body).where(equal(t.version, *MODEL, "number"))
VERSIONS = sa.select(t.version.c.body).where(equal(t.version, *MODEL)).order_by(t.version.c.number)
DELETE_VERSION = sa.delete(t.version).where(equal(t.version, *MODEL, "number"))
INSERT_VERSION = sa.insert(t.version)

# --- releases

RELEASE = sa.select(t.release.c.body).where(equal(t.release, "id"))
INSERT_RELEASE = sa.insert(t.release)
UPDATE_RELEASE = sa.update(t.release).where(was(t.release, "id", "row"))


@cache
def releases(*names: str) -> sa.Select[Any]:
    """Releases with these columns as bound, oldest first within each place."""
    order = (t.release.c.workspace, t.release.c.model, t.release.c.environment, t.release.c.number)
    return sa.select(t.release.c.body).where(equal(t.release, *names) if names else sa.true()).order_by(*order)


# --- verdicts

INSERT_VERDICT = sa.insert(t.verdict)


@cache
def verdicts(*names: str) -> sa.Select[Any]:
    return sa.select(t.verdict.c.body).where(equal(t.verdict, *names)).order_by(t.verdict.c.id)


# --- operations

OPERATION = sa.select(t.operation.c.body).where(equal(t.operation, "key"))
OPERATION_ID = sa.select(t.operation.c.id).where(equal(t.operation, "key"))
OPERATIONS_BETWEEN = (
    sa.select(t.operation.c.body)
    .where(t.operation.c.key >= bindparam("first"), t.operation.c.key < bindparam("beyond"))
    .order_by(t.operation.c.seq)
)
OPEN_OPERATIONS = (
    sa.select(t.operation.c.body)
    .where(sa.or_(*(t.operation.c.state == state for state in (OperationState.INTENDED, OperationState.RUNNING))))
    .order_by(t.operation.c.seq)
)
INSERT_OPERATION = sa.insert(t.operation)
UPDATE_OPERATION = sa.update(t.operation).where(was(t.operation, "id"))
UPDATE_OPERATION_OF_EPOCH = sa.update(t.operation).where(was(t.operation, "id", "epoch"))

# --- findings, incidents, trainings

INSERT_FINDING = sa.insert(t.finding)
FINDINGS = sa.select(t.finding.c.body).where(equal(t.finding, *MODEL)).order_by(t.finding.c.seq)
INSERT_INCIDENT = sa.insert(t.incident)
UPDATE_INCIDENT = sa.update(t.incident).where(was(t.incident, "id", "row"))
INCIDENT = sa.select(t.incident.c.body).where(equal(t.incident, "id"))


@cache
def incidents(*names: str, open_only: bool) -> sa.Select[Any]:
    """Incidents with these columns as bound, in the order they were opened."""
    query = sa.select(t.incident.c.body).order_by(t.incident.c.seq)
    if names:
        query = query.where(equal(t.incident, *names))
    return query.where(t.incident.c.state != IncidentState.CLOSED) if open_only else query


INSERT_TRAINING = sa.insert(t.training)
UPDATE_TRAINING = sa.update(t.training).where(was(t.training, "id"))
TRAINING = sa.select(t.training.c.body).where(equal(t.training, "id"))
TRAININGS = sa.select(t.training.c.body).where(equal(t.training, *MODEL)).order_by(t.training.c.seq)

# --- challengers, routes, monitors, aliases

CHALLENGER = sa.select(t.challenger.c.body).where(equal(t.challenger, *PLACE))
DELETE_CHALLENGER = sa.delete(t.challenger).where(equal(t.challenger, *PLACE))
INSERT_CHALLENGER = sa.insert(t.challenger)
INSERT_ROUTE = sa.insert(t.route)
NEWEST_ROUTE = (
    sa.select(t.route.c.generation, t.route.c.body).order_by(t.route.c.generation.desc()).limit(sa.literal_column("1"))
)
MONITOR_STATE = sa.select(t.monitor_state.c.body).where(equal(t.monitor_state, *PLACE, "monitor"))
DELETE_MONITOR_STATE = sa.delete(t.monitor_state).where(equal(t.monitor_state, *PLACE, "monitor"))
INSERT_MONITOR_STATE = sa.insert(t.monitor_state)
ALIASES = sa.select(t.observed_alias.c.alias, t.observed_alias.c.number).where(equal(t.observed_alias, *MODEL))
DELETE_ALIAS = sa.delete(t.observed_alias).where(equal(t.observed_alias, *MODEL, "alias"))
INSERT_ALIAS = sa.insert(t.observed_alias)

# --- gates

GATE_VERDICT = sa.select(t.gate_verdict.c.body).where(equal(t.gate_verdict, "key"))
DELETE_GATE_VERDICT = sa.delete(t.gate_verdict).where(equal(t.gate_verdict, "key"))
INSERT_GATE_VERDICT = sa.insert(t.gate_verdict)

# --- agreements

_same = (
    (t.approval_terms.c.release == t.approval.c.release)
    & (t.approval_terms.c.step == t.approval.c.step)
    & (t.approval_terms.c.actor == t.approval.c.actor)
)
APPROVALS = (
    sa.select(t.approval.c.step, t.approval.c.actor, t.approval.c.at, t.approval.c.because, t.approval_terms.c.body)
    .outerjoin(t.approval_terms, _same)
    .where(equal(t.approval, "release"))
    .order_by(t.approval.c.at, t.approval.c.id)
)
DELETE_APPROVAL = sa.delete(t.approval).where(equal(t.approval, "release", "step", "actor"))
DELETE_APPROVAL_TERMS = sa.delete(t.approval_terms).where(equal(t.approval_terms, "release", "step", "actor"))
INSERT_APPROVAL = sa.insert(t.approval)
INSERT_APPROVAL_TERMS = sa.insert(t.approval_terms)
INSERT_WAIVER = sa.insert(t.waiver)
UPDATE_WAIVER = sa.update(t.waiver).where(was(t.waiver, "id", "body"))
WAIVERS = sa.select(t.waiver.c.body).where(equal(t.waiver, *MODEL)).order_by(t.waiver.c.seq)

# --- evidence

PAIR = ("workspace", "environment", "model", "reference", "compared")
WINDOW = ("workspace", "environment", "model", "digest", "start")
INSERT_PAIR_BLOCK = sa.insert(t.pair_block)
PAIR_BLOCKS = (
    sa.select(t.pair_block)
    .where(equal(t.pair_block, *PAIR, "metric", "mode", "slice"), t.pair_block.c.block >= bindparam("since"))
    .order_by(t.pair_block.c.block)
)
INSERT_UNMEASURED = sa.insert(t.unmeasured)
UNMEASURED = (
    sa.select(t.unmeasured)
    .where(equal(t.unmeasured, *PAIR, "metric", "mode"), t.unmeasured.c.block >= bindparam("since"))
    .order_by(t.unmeasured.c.block, t.unmeasured.c.slice)
)
INSERT_COHORT = sa.insert(t.cohort)
COHORTS = (
    sa.select(t.cohort)
    .where(equal(t.cohort, *PAIR, "mode"), t.cohort.c.block >= bindparam("since"))
    .order_by(t.cohort.c.block, t.cohort.c.slice)
)
DELETE_WINDOW = sa.delete(t.window).where(equal(t.window, *WINDOW))
INSERT_WINDOW = sa.insert(t.window)
UPDATE_WINDOW = sa.update(t.window).where(was(t.window, *WINDOW))
WINDOW_BODY = sa.select(t.window.c.body).where(equal(t.window, *WINDOW))
WINDOW_PROFILES = sa.select(t.window.c.profiles).where(equal(t.window, *WINDOW))


@cache
def windows(*names: str) -> sa.Select[Any]:
    return sa.select(t.window.c.body).where(equal(t.window, *names)).order_by(t.window.c.start)


# --- the ledger

LEDGER_FRONTIER = sa.select(t.ledger_state.c.frontier).where(t.ledger_state.c.id == 1)
UPDATE_LEDGER_STATE = sa.update(t.ledger_state).where(t.ledger_state.c.id == 1)
INSERT_LEDGER_STATE = sa.insert(t.ledger_state)
INSERT_LEDGER_ENTRY = sa.insert(t.ledger_entry)
LEDGER_ROWS = (
    sa.select(t.ledger_entry.c.idx, t.ledger_entry.c.body)
    .where(t.ledger_entry.c.idx >= bindparam("start"))
    .order_by(t.ledger_entry.c.idx)
    .limit(bindparam("most"))
)
LEDGER_ROWS_ABOUT = (
    sa.select(t.ledger_entry.c.idx, t.ledger_entry.c.body)
    .where(equal(t.ledger_entry, "workspace", "name"))
    .order_by(t.ledger_entry.c.idx.desc())
    .limit(bindparam("most"))
)
