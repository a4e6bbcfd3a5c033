"""What Steersman asks of the world around it, one Protocol a kind of plugin.

The loops know these Protocols and nothing else of MLflow, of processes or of Delta Lake; `server/` alone knows which
plugin stands behind which port. Every port has a conformance suite in `steersman.testing`, and every plugin runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from steersman.domain.version import Column, Format

# --- Registry: where versions come from ------------------------------------------------------------------------------


class RegisteredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One registered version as its registry lists it: a claim, until its bytes are fetched and hashed."""

    name: str
    number: int
    source: str
    created_at: datetime
    created_by: str = ""
    run_id: str = ""
    tags: Mapping[str, str] = {}

    @property
    def uri(self) -> str:
        """The reference people write: `models:/name/3`."""
        return f"models:/{self.name}/{self.number}"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must know to load a version: the format, the file inside the tree, and the columns it takes.

    `file` is a posix path relative to the tree, `.` where the whole tree is the model. `params` are those of the
    training, as its author logged them; `metadata` is what else the registry knows (flavour, library version).
    """

    format: Format
    file: str
    signature: tuple[Column, ...] = ()
    output: str = "score"
    params: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}


@runtime_checkable
class Registry(Protocol):
    """Where registered versions come from. Every method is blocking and bounded by the plugin's time-outs.

    Numbers are positive integers in the order of registration. An alias is a projection of a release, written for
    other readers; nothing in Steersman follows one. Errors are those of `steersman.domain.errors`: `NotFound` (the
    message lists what exists), `Unavailable`, `NotAllowed`, `NotSupported` (nothing here can load it), `BadRequest`
    (the files are malformed or unsafe to copy), `LimitReached`.
    """

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions of `name`, oldest first. Raises `NotFound` when the name is not registered."""
        ...

    def describe(self, name: str, number: int) -> Description:
        """Read what the version says of itself, without fetching the model."""
        ...

    def fetch(self, name: str, number: int, into: Path) -> Description:
        """Copy the version's tree of files into `into` (created; must be empty) and describe it.

        Only regular files, never a link; a failure leaves `into` incomplete, and the caller removes it.
        """
        ...

    def aliases(self, name: str) -> dict[str, int]:
        """Every alias of `name` and the version it points to."""
        ...

    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        """Point `alias` to version `number`, or take it away with None. Doing it twice changes nothing."""
        ...

    def check(self) -> str:
        """One line saying what answers (product and version). Raises `Unavailable` when nothing does."""
        ...


# --- end of Registry -------------------------------------------------------------------------------------------------
