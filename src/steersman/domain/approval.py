"""What people's agreement is bound to: an approval to one release as it was, a waiver to one version and environment.

Both are used once. An approval counts while everything it was given for is unchanged; a waiver lets one version skip what
it names, and the next version has to prove it again.
"""

from datetime import datetime

import msgspec


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What a person looked at when they agreed: any difference to the present one, and the approval counts no longer.

    `step` is where the release stood, `document` the revision it follows, `declared` the newest revision then, `previous`
    the digest of the version it is compared with.
    """

    step: int
    environment: str
    digest: str
    document: str
    declared: str
    previous: str | None

    def changed(self, now: "Binding") -> str | None:
        """In words, what is no longer as it was; None where nothing changed."""
        words = {
            "step": "the step it was given for is over",
            "environment": "it is for another environment",
            "digest": "it is for another version",
            "document": "the release follows another document",
            "declared": "the model's document has a new revision",
            "previous": "the version it is compared with changed",
        }
        return next((said for name, said in words.items() if getattr(self, name) != getattr(now, name)), None)


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """Leave for one version to skip one thing in one environment, once.

    `skips` is the name of the environment before, or `step N` with the step's words in `what`. `used_by` is the release that
    took it.
    """

    id: str
    workspace: str
    model: str
    environment: str
    version: int
    digest: str
    skips: str
    step: int | None = None
    what: str
    actor: str
    at: datetime
    expires_at: datetime
    because: str
    used_by: str | None = None

    def usable(self, *, digest: str, environment: str, now: datetime) -> bool:
        return (
            self.used_by is None
            and (self.digest, self.environment) == (digest, environment)
            and self.at <= now < self.expires_at
        )


class Waived(msgspec.Struct, frozen=True, kw_only=True):
    """A step a release may pass over, by whose leave, until when."""

    step: int
    waiver: str
    actor: str
    because: str
    until: datetime
