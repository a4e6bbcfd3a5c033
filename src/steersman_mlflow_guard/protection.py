"""What is protected, as one small file the control server writes and the guard reads.

A file, because the guard must know it before the first request and while the control server is away. Whatever cannot
be read protects everything: a guard that knows nothing lets nothing through.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

FILE_VARIABLE = "STEERSMAN_GUARD_FILE"
TAG_PREFIX = "steersman."
"""Tags under this prefix are written by Steersman only, on models and versions alike."""
REGISTRAR_TAG = f"{TAG_PREFIX}registered_by"


class Mode(StrEnum):
    ENFORCE = "enforce"
    WARN = "warn"  # let through and report, for a team that starts to use Steersman on a living registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """`released` maps a governed model's name in MLflow to the numbers of its versions that a release ever named.

    `aliases` are protected on every registered model, governed or not: a model that is governed tomorrow must not find
    its `champion` taken. `everything` is what an unreadable file means.
    """

    mode: Mode = Mode.ENFORCE
    aliases: frozenset[str] = frozenset({"champion", "challenger"})
    released: Mapping[str, frozenset[int]] = field(default_factory=dict)
    everything: bool = False

    def protects_alias(self, alias: str) -> bool:
        return alias.strip().casefold() in {known.casefold() for known in self.aliases}

    def governs(self, name: str) -> bool:
        return self.everything or name in self.released

    def is_released(self, name: str, number: int) -> bool:
        return self.everything or number in self.released.get(name, frozenset())


EVERYTHING = Protection(everything=True)


def write(path: Path, protection: Protection) -> None:
    """Replace the file in one step: a reader sees the old or the new one, never half."""
    document = {
        "mode": protection.mode.value,
        "aliases": sorted(protection.aliases),
        "released": {name: sorted(numbers) for name, numbers in sorted(protection.released.items())},
    }
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> Protection:
    """What the file says; `EVERYTHING` when it is missing or malformed."""
    try:
        document = json.loads(path.read_bytes())
        return Protection(
            mode=Mode(document["mode"]),
            aliases=frozenset(str(alias) for alias in document["aliases"]),
            released={
                str(name): frozenset(int(number) for number in numbers)
                for name, numbers in document["released"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return EVERYTHING


class ProtectionFile:
    """The file, read again whenever it was replaced (one `stat` a judged request, about 2 µs)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._current = EVERYTHING

    def current(self) -> Protection:
        try:
            status = self._path.stat()
        except OSError:
            self._seen = None
            return EVERYTHING
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._current = read(self._path)
            self._seen = seen
        return self._current
