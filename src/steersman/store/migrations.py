"""Takes over what an older Steersman kept, when its database is opened: in one transaction, losing nothing.

Most records are JSON, where a new field needs no migration. A table whose key changed is written anew.
"""

import sqlalchemy as sa

from steersman.store import tables


def migrate(connection: sa.Connection, found: int) -> None:
    """Bring a database of schema `found` to the present one; missing tables are created by the caller afterwards."""
    if found < 2:
        _pair_blocks_with_mode_and_slice(connection)
    elif found < 3:
        _pair_blocks_with_sums(connection)
    tables.metadata.create_all(connection)
    present = sa.update(tables.installation).where(tables.installation.c.name == "schema")
    connection.execute(present.values(value=str(tables.SCHEMA_VERSION)))


def _pair_blocks_with_mode_and_slice(connection: sa.Connection) -> None:
    """Schema 1 knew pairs over all requests only."""
    table = tables.pair_block
    old = sa.Table(
        "pair_block_1", sa.MetaData(), *(sa.Column(c.name, c.type) for c in table.columns if c.name in _OF_1)
    )
    connection.execute(sa.text("ALTER TABLE pair_block RENAME TO pair_block_1"))
    table.create(connection)
    kept = sa.select(*old.columns, sa.literal("paired"), sa.literal(""))
    connection.execute(sa.insert(table).from_select([*_OF_1, "mode", "slice"], kept))
    old.drop(connection)


def _pair_blocks_with_sums(connection: sa.Connection) -> None:
    """Schema 2 kept of a ratio each block's value only; blocks kept then have no sums, and are judged without."""
    for part in ("numerator", "denominator"):
        for arm in ("reference", "compared"):
            connection.execute(sa.text(f"ALTER TABLE pair_block ADD COLUMN {part}_{arm} FLOAT"))


_OF_1 = (
    "workspace", "environment", "model", "reference", "compared", "metric", "block", "harm", "value_reference",
    "value_compared", "n",
)  # fmt: skip
