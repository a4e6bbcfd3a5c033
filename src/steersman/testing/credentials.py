"""Credentials in memory: the store behind `Identities` for tests that need no database."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from steersman.domain.credentials import LoginCodeRow, SessionRow, TokenRow, UserRow


@dataclass(slots=True)
class CredentialsInMemory:
    """A `CredentialStore`; its rows are public, so that a test can look for what must not be in them."""

    user_rows: dict[str, UserRow] = field(default_factory=dict)
    token_rows: dict[str, TokenRow] = field(default_factory=dict)
    code_rows: dict[bytes, LoginCodeRow] = field(default_factory=dict)
    session_rows: dict[bytes, SessionRow] = field(default_factory=dict)

    def put_user(self, row: UserRow) -> None:
        self.user_rows[row.subject] = row

    def user(self, subject: str) -> UserRow | None:
        return self.user_rows.get(subject)

    def users(self) -> list[UserRow]:
        return list(self.user_rows.values())

    def put_token(self, row: TokenRow) -> None:
        self.token_rows[row.id] = row

    def token(self, token_id: str) -> TokenRow | None:
        return self.token_rows.get(token_id)

    def tokens(self) -> list[TokenRow]:
        return list(self.token_rows.values())

    def put_login_code(self, row: LoginCodeRow) -> None:
        self.code_rows[row.hash] = row

    def use_login_code(self, code_hash: bytes, at: datetime) -> LoginCodeRow | None:
        row = self.code_rows.get(code_hash)
        if row is None or row.used_at is not None:
            return None
        self.code_rows[code_hash] = replace(row, used_at=at)
        return self.code_rows[code_hash]

    def put_session(self, row: SessionRow) -> None:
        self.session_rows[row.hash] = row

    def session(self, session_hash: bytes) -> SessionRow | None:
        return self.session_rows.get(session_hash)
