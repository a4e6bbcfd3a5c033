"""The control server's database: one connection pool, one writer, and the rule that a state change and its ledger entry
commit together or not at all.

Reading and writing both go through a `Transaction`. A write holds SQLite's lock from its first statement
(``BEGIN IMMEDIATE``), so what it read cannot have changed before it commits. Durability is ``synchronous=FULL``: after
`write()` returns, a power cut loses nothing of it. Steersman's own database runs on one machine here; PostgreSQL uses
the same tables and statements.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from steersman.domain.errors import Misconfigured
from steersman.store import tables
from steersman.store.migrations import migrate
from steersman.store.transaction import Transaction


def _wall() -> datetime:
    return datetime.now(UTC)


class Store:
    """Opens (and on first use creates) a database.

    `url` is SQLAlchemy's, e.g. ``sqlite:////var/lib/steersman/control.db``. `wall` gives the ledger's `recorded_at`.
    `durable=False` leaves the wait for the disk out, and a power cut may then lose what was committed: for worlds that are
    made up. Raises Misconfigured when it cannot be opened, or was written by a newer Steersman.
    """

    def __init__(self, url: str, *, wall: Callable[[], datetime] = _wall, durable: bool = True) -> None:
        self._wall = wall
        self._writing = threading.Lock()
        self._engine = sa.create_engine(url, pool_size=8, max_overflow=8) if ":memory:" not in url else _memory(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        if self._sqlite:
            sa.event.listen(self._engine, "connect", _configure_sqlite)
            if not durable:
                sa.event.listen(self._engine, "connect", _without_waiting_for_the_disk)
        self._listeners: list[Callable[[], None]] = []
        try:
            found = self._schema_found()
            with self._engine.begin() as connection:
                if found is not None and found < tables.SCHEMA_VERSION:
                    migrate(connection, found)
                tables.metadata.create_all(connection)
        except sa.exc.DatabaseError as error:
            raise Misconfigured(
                f"the database {self._engine.url.database} cannot be opened: {error.orig}",
                next_step="Check that the file is there, whole and yours; else choose another directory with --state.",
            ) from None
        with self.write() as tx:
            if tx.setting("schema") is None:
                tx.put_setting("schema", str(tables.SCHEMA_VERSION))

    def _schema_found(self) -> int | None:
        """The schema of what is there, None where nothing is. A database of a newer Steersman stays as it is: refused."""
        if not sa.inspect(self._engine).has_table(tables.installation.name):
            return None
        with self.read() as tx:
            kept = tx.setting("schema")
        found = None if kept is None else int(kept)
        if found is not None and found > tables.SCHEMA_VERSION:
            raise Misconfigured(
                f"the database {self._engine.url.database} was written by a newer Steersman "
                f"(schema {found}; this one knows {tables.SCHEMA_VERSION}); nothing was changed",
                next_step="Start that newer Steersman, or choose another directory with --state.",
            )
        return found

    @classmethod
    def at(cls, state: Path, *, wall: Callable[[], datetime] = _wall, durable: bool = True) -> "Store":
        """The embedded database of a state directory."""
        state.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{state / 'control.db'}", wall=wall, durable=durable)

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each commit that appended to the ledger; it must not block. A hint to look, nothing more."""
        self._listeners.append(listener)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view; anything written through it is rolled back."""
        with self._engine.connect() as connection:
            if self._sqlite:
                connection.exec_driver_sql("BEGIN")
            yield Transaction(connection, self._wall)
            connection.rollback()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """All of it or nothing. Raises what the body raises, after rolling back."""
        with self._writing, self._engine.connect() as connection:
            if self._sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            tx = Transaction(connection, self._wall)
            try:
                yield tx
            except BaseException:
                connection.rollback()
                raise
            tx.flush_ledger()
            connection.commit()
        if tx.appended:
            for listener in self._listeners:
                listener()

    def close(self) -> None:
        self._engine.dispose()


def _memory(url: str) -> sa.Engine:
    """One shared connection: an in-memory database lives and dies with it."""
    return sa.create_engine(url, poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False})


def _configure_sqlite(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # transactions are begun by Store, not by the driver
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()


def _without_waiting_for_the_disk(connection: object, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # type: ignore[attr-defined]
