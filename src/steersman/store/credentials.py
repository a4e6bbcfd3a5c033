"""The rows of people, tokens, login codes and sessions, inside the caller's transaction.

So that issuing a token and the ledger's entry about it commit together. Only hashes are kept; a row is JSON beside the
columns that are searched, like every other record of the store. Codes and sessions that are over are swept out when
the next one is made, so neither table grows without end.
"""

from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import Column, Float, LargeBinary, String, Table, Text

from steersman.domain.credentials import LoginCodeRow, SessionRow, TokenRow, UserRow
from steersman.store.tables import metadata

KEPT_AFTER_END = timedelta(days=7)
"""How long a code or session that is over stays, for somebody who asks what happened."""

user = Table("user", metadata, Column("subject", String(128), primary_key=True), Column("body", Text, nullable=False))

token = Table("token", metadata, Column("id", String(16), primary_key=True), Column("body", Text, nullable=False))

login_code = Table(
    "login_code",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("body", Text, nullable=False),
)

session = Table(
    "session",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("expires_at", Float, nullable=False),
    Column("body", Text, nullable=False),
)

Row = TypeVar("Row", UserRow, TokenRow, LoginCodeRow, SessionRow)


class CredentialTables:
    """A `CredentialStore` (`steersman.plugins.identity.tokens`) of one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def _put(self, table: Table, key: str, row: UserRow | TokenRow | LoginCodeRow | SessionRow, **more: Any) -> None:
        value = getattr(row, key)
        self._connection.execute(sa.delete(table).where(table.c[key] == value))
        body = msgspec.json.encode(row).decode()
        self._connection.execute(sa.insert(table).values(**{key: value, "body": body}, **more))

    def _get(self, table: Table, key: str, value: str | bytes, kind: type[Row]) -> Row | None:
        body = self._connection.scalar(sa.select(table.c.body).where(table.c[key] == value))
        return None if body is None else msgspec.json.decode(body, type=kind)

    def _sweep(self, table: Table, made_at: datetime) -> None:
        self._connection.execute(sa.delete(table).where(table.c.expires_at < (made_at - KEPT_AFTER_END).timestamp()))

    def put_user(self, row: UserRow) -> None:
        self._put(user, "subject", row)

    def user(self, subject: str) -> UserRow | None:
        return self._get(user, "subject", subject, UserRow)

    def users(self) -> list[UserRow]:
        bodies = self._connection.scalars(sa.select(user.c.body).order_by(user.c.subject))
        return [msgspec.json.decode(body, type=UserRow) for body in bodies]

    def put_token(self, row: TokenRow) -> None:
        self._put(token, "id", row)

    def token(self, token_id: str) -> TokenRow | None:
        return self._get(token, "id", token_id, TokenRow)

    def tokens(self) -> list[TokenRow]:
        bodies = self._connection.scalars(sa.select(token.c.body))
        rows = [msgspec.json.decode(body, type=TokenRow) for body in bodies]
        return sorted(rows, key=lambda row: (row.created_at, row.id))

    def put_login_code(self, row: LoginCodeRow) -> None:
        self._sweep(login_code, row.expires_at)
        self._put(login_code, "hash", row, expires_at=row.expires_at.timestamp(), used_at=None)

    def use_login_code(self, code_hash: bytes, at: datetime) -> LoginCodeRow | None:
        """One statement decides who was first; everybody after gets None."""
        first = sa.update(login_code).where(login_code.c.hash == code_hash, login_code.c.used_at.is_(None))
        if self._connection.execute(first.values(used_at=at.timestamp())).rowcount != 1:
            return None
        return self._get(login_code, "hash", code_hash, LoginCodeRow)

    def put_session(self, row: SessionRow) -> None:
        self._sweep(session, row.created_at)
        self._put(session, "hash", row, expires_at=row.expires_at.timestamp())

    def session(self, session_hash: bytes) -> SessionRow | None:
        return self._get(session, "hash", session_hash, SessionRow)
