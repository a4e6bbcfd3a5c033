"""The schema: one set of tables for SQLite now and PostgreSQL later.

A record is a frozen struct of `domain/`, kept as JSON beside the few columns that are searched; so state stays
inspectable and a new field needs no migration. Evidence (verdicts, blocks, windows) is written once and never changed.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 3
"""Grows with every change that older code could not read; an older installation refuses a newer database, and a newer one
takes over what an older one kept (`steersman.store.migrations`)."""

metadata = MetaData()


def _named(*names: str) -> list[Column[str]]:
    return [Column(name, String(160), nullable=False) for name in names]


installation = Table(
    "installation",
    metadata,
    Column("name", String(60), primary_key=True),
    Column("value", Text, nullable=False),
)

document = Table(
    "document",
    metadata,
    Column("id", Integer, primary_key=True),
    *_named("kind", "workspace", "name", "digest"),
    Column("revision", Integer, nullable=False),
    Column("at", String(40), nullable=False),
    Column("actor", String(160), nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("kind", "workspace", "name", "revision"),
    Index("document_digest", "digest"),
)

version = Table(
    "version",
    metadata,
    *_named("workspace", "model"),
    Column("number", Integer, nullable=False),
    *_named("digest"),
    Column("body", Text, nullable=False),
    UniqueConstraint("workspace", "model", "number"),
)

release = Table(
    "release",
    metadata,
    Column("id", String(60), primary_key=True),
    *_named("workspace", "model", "environment"),
    Column("number", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    *_named("phase"),
    Column("completion", String(40)),
    Column("active", Boolean, nullable=False),
    Column("row", Integer, nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("workspace", "model", "environment", "number"),
)

verdict = Table(
    "verdict",
    metadata,
    Column("id", Integer, primary_key=True),
    *_named("subject", "kind"),
    Column("step", Integer, nullable=False),
    Column("at", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Index("verdict_subject", "subject"),
)

gate_verdict = Table(
    "gate_verdict",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("body", Text, nullable=False),
)

approval = Table(
    "approval",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("release", String(60), nullable=False),
    Column("step", Integer, nullable=False),
    Column("actor", String(160), nullable=False),
    Column("at", String(40), nullable=False),
    Column("because", Text, nullable=False),
    UniqueConstraint("release", "step", "actor"),
)

approval_terms = Table(
    "approval_terms",
    metadata,
    Column("release", String(60), nullable=False),
    Column("step", Integer, nullable=False),
    Column("actor", String(160), nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("release", "step", "actor"),
)
"""What an approval is bound to and by which roles it was given: beside `approval`, whose columns 0.1 wrote."""

waiver = Table(
    "waiver",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(60), nullable=False, unique=True),
    *_named("workspace", "model", "environment"),
    Column("body", Text, nullable=False),
)

pair_block = Table(
    "pair_block",
    metadata,
    *_named("workspace", "environment", "model", "reference", "compared", "metric"),
    Column("block", String(40), nullable=False),
    Column("harm", Float, nullable=False),
    Column("value_reference", Float, nullable=False),
    Column("value_compared", Float, nullable=False),
    Column("n", Integer, nullable=False),
    Column("mode", String(20), nullable=False),
    Column("slice", String(400), nullable=False),
    Column("spread", Float),
    Column("n_reference", Integer),
    Column("n_compared", Integer),
    *(Column(f"{part}_{arm}", Float) for part in ("numerator", "denominator") for arm in ("reference", "compared")),
    UniqueConstraint(
        "workspace",
        "environment",
        "model",
        "reference",
        "compared",
        "metric",
        "block",
        "mode",
        "slice",
    ),
)

unmeasured = Table(
    "unmeasured",
    metadata,
    *_named("workspace", "environment", "model", "reference", "compared", "metric"),
    Column("block", String(40), nullable=False),
    Column("mode", String(20), nullable=False),
    Column("slice", String(400), nullable=False),
    Column("because", Text, nullable=False),
    UniqueConstraint(
        "workspace",
        "environment",
        "model",
        "reference",
        "compared",
        "metric",
        "block",
        "mode",
        "slice",
    ),
)
"""Blocks in which a metric of an installed distribution raised: beside `pair_block`, which has numbers only."""

cohort = Table(
    "cohort",
    metadata,
    *_named("workspace", "environment", "model", "reference", "compared"),
    Column("block", String(40), nullable=False),
    Column("mode", String(20), nullable=False),
    Column("slice", String(400), nullable=False),
    *(
        Column(f"{what}_{arm}", Integer, nullable=False)
        for what in ("matured", "labelled", "drawn")
        for arm in ("reference", "compared")
    ),
    Column("share", Float, nullable=False),
    Column("digest", String(80), nullable=False),
    UniqueConstraint("workspace", "environment", "model", "reference", "compared", "block", "mode", "slice"),
)

window = Table(
    "window",
    metadata,
    *_named("workspace", "environment", "model", "digest"),
    Column("start", String(40), nullable=False),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("profiles", LargeBinary, nullable=False),
    UniqueConstraint("workspace", "environment", "model", "digest", "start"),
)

operation = Table(
    "operation",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(60), nullable=False, unique=True),
    Column("key", String(400), nullable=False, unique=True),
    *_named("kind", "state"),
    Column("epoch", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("body", Text, nullable=False),
    Index("operation_state", "state"),
)

finding = Table(
    "finding",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(60), nullable=False, unique=True),
    *_named("workspace", "model", "environment"),
    Column("incident", String(60)),
    Column("body", Text, nullable=False),
)

incident = Table(
    "incident",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(60), nullable=False, unique=True),
    *_named("workspace", "model", "environment", "kind", "state"),
    Column("row", Integer, nullable=False),
    Column("body", Text, nullable=False),
)

training = Table(
    "training",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(60), nullable=False, unique=True),
    *_named("workspace", "model", "environment", "outcome"),
    Column("body", Text, nullable=False),
)

challenger = Table(
    "challenger",
    metadata,
    *_named("workspace", "model", "environment"),
    Column("body", Text, nullable=False),
    UniqueConstraint("workspace", "model", "environment"),
)

route = Table(
    "route",
    metadata,
    Column("generation", Integer, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("body", Text, nullable=False),
)

monitor_state = Table(
    "monitor_state",
    metadata,
    *_named("workspace", "model", "environment", "monitor"),
    Column("body", Text, nullable=False),
    UniqueConstraint("workspace", "model", "environment", "monitor"),
)

observed_alias = Table(
    "observed_alias",
    metadata,
    *_named("workspace", "model", "alias"),
    Column("number", Integer, nullable=False),
    UniqueConstraint("workspace", "model", "alias"),
)

ledger_entry = Table(
    "ledger_entry",
    metadata,
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("id", String(60), nullable=False, unique=True),
    Column("action", String(60), nullable=False),
    Column("workspace", String(160), nullable=False),
    Column("name", String(400), nullable=False),
    Column("at", String(40), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Index("ledger_entry_name", "workspace", "name"),
)

ledger_state = Table(
    "ledger_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
)

ledger_checkpoint = Table(
    "ledger_checkpoint",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)
