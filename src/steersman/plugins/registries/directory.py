"""A registry that is a directory: `ROOT/NAME/NUMBER/` with a `version.yaml` beside the model file.

For teams without MLflow, for air-gapped places where files are copied in, and for the first story of every newcomer:
a version is a directory, its number is its name, and an alias is a line in `ROOT/NAME/aliases.yaml`.

`version.yaml`: `format` and `file` are needed; `signature` (list of `name`, `type`, optionally `required: false`),
`output`, `requirements`, `params`, `metadata`, `tags`, `created_at`, `created_by`, `run_id` are optional, and so is
`example`: a JSON file of the version with rows that fit it, which every worker predicts before it takes traffic. The types
are those of the Open Inference Protocol (FP64, INT64, BYTES, …) or MLflow's (double, long, string, …). `requirements` (a
list of lines) becomes the version's `requirements.txt`, the form every target reads.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from steersman.domain.errors import BadRequest, NotFound, Unavailable
from steersman.domain.version import Column, Format
from steersman.plugins.registries.mlmodel import DATATYPES
from steersman.plugins.registries.trees import Tree, registered_name, relative
from steersman.ports import Description, RegisteredVersion

VERSION_FILE = "version.yaml"
ALIASES_FILE = "aliases.yaml"
REQUIREMENTS_FILE = "requirements.txt"
FILE_BYTES_MAX = 2**20
CHUNK_BYTES = 2**20


class _VersionFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Format
    file: str
    signature: tuple[Column, ...] = ()
    output: str = "score"
    requirements: tuple[str, ...] = ()
    example: str | None = None
    params: dict[str, str] = {}
    metadata: dict[str, str] = {}
    tags: dict[str, str] = {}
    created_at: datetime | None = None
    created_by: str = ""
    run_id: str = ""


class DirectoryRegistry:
    """The `Registry` port over a directory. Reads at every call: what lies there now is what is registered now."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self) -> str:
        if not self._root.is_dir():
            raise Unavailable(
                f"The registry directory {self._root} is not there.",
                next_step="Create it, or name another in the settings; a version goes to NAME/1/version.yaml below it.",
            )
        return f"directory {self._root}: {len(self._names())} models"

    def versions(self, name: str) -> list[RegisteredVersion]:
        return [self._registered(name, number) for number in self._numbers(name)]

    def describe(self, name: str, number: int) -> Description:
        content = self._read(name, number)
        return Description(
            format=content.format,
            file=str(relative(content.file)),
            signature=tuple(_in_protocol(column) for column in content.signature),
            output=content.output,
            params=content.params,
            metadata=content.metadata,
        )

    def fetch(self, name: str, number: int, into: Path) -> Description:
        description = self.describe(name, number)
        source = self._directory(name, number)
        tree = Tree(into)
        for path, handle in _files(source):
            with os.fdopen(handle, "rb") as file:
                tree.write(path, iter(lambda: file.read(CHUNK_BYTES), b""))
        tree.require(description.file)
        given = self._read(name, number)
        if requirements := given.requirements:
            if (into / REQUIREMENTS_FILE).exists():
                raise BadRequest(
                    f"{name}/{number} has {REQUIREMENTS_FILE} and `requirements` in {VERSION_FILE}.",
                    next_step="Keep one of the two.",
                )
            tree.write(REQUIREMENTS_FILE, ["".join(f"{line}\n" for line in requirements).encode()])
        if (example := given.example) is not None:
            tree.require(str(relative(example)))
        return description

    def aliases(self, name: str) -> dict[str, int]:
        numbers = self._numbers(name)
        path = self._root / name / ALIASES_FILE
        content = _load(path) if path.exists() else {}
        return {str(alias): int(number) for alias, number in content.items() if int(number) in numbers}

    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        registered_name(alias)
        present = self.aliases(name)
        if number is None:
            present.pop(alias, None)
        else:
            self._directory(name, number)
            present[alias] = number
        _replace(self._root / name / ALIASES_FILE, yaml.safe_dump(present))

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in self._root.iterdir() if entry.is_dir()) if self._root.is_dir() else []

    def _numbers(self, name: str) -> list[int]:
        directory = self._root / registered_name(name)
        if not directory.is_dir():
            names = self._names()
            raise NotFound(
                f"The registry directory has no model {name!r}; "
                + (f"it has: {', '.join(names[:20])}." if names else "it has none yet."),
                next_step=f"Put a version into {name}/1/ with a version.yaml, or correct spec.versions.name.",
            )
        entries = [entry.name for entry in directory.iterdir() if (entry / VERSION_FILE).is_file()]
        return sorted(int(entry) for entry in entries if entry.isascii() and entry.isdecimal() and entry[0] != "0")

    def _directory(self, name: str, number: int) -> Path:
        numbers = self._numbers(name)
        if number not in numbers:
            known = ", ".join(map(str, numbers[-20:])) or "none"
            raise NotFound(
                f"{name!r} has no version {number}; it has: {known}.",
                next_step=f"Name one of these, or put it into {name}/{number}/ with a version.yaml.",
            )
        return self._root / name / str(number)

    def _read(self, name: str, number: int) -> _VersionFile:
        path = self._directory(name, number) / VERSION_FILE
        try:
            return msgspec.convert(_load(path), _VersionFile, strict=False)
        except msgspec.ValidationError as error:
            raise BadRequest(
                f"{name}/{number}/{VERSION_FILE}: {error}", next_step="Correct the file; format and file are needed."
            ) from error

    def _registered(self, name: str, number: int) -> RegisteredVersion:
        content = self._read(name, number)
        directory = self._directory(name, number)
        written_at = datetime.fromtimestamp((directory / VERSION_FILE).stat().st_mtime, UTC)
        created_at = content.created_at or written_at
        return RegisteredVersion(
            name=name,
            number=number,
            source=directory.resolve().as_uri(),
            created_at=created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC),
            created_by=content.created_by,
            run_id=content.run_id,
            tags=content.tags,
        )


def _in_protocol(column: Column) -> Column:
    return msgspec.structs.replace(column, type=DATATYPES.get(column.type, column.type))


def _load(path: Path) -> dict[str, Any]:
    """The YAML mapping in a file of at most 1 MiB."""
    label = "/".join(path.parts[-3:])
    if path.stat().st_size > FILE_BYTES_MAX:
        raise BadRequest(f"{label} is larger than {FILE_BYTES_MAX >> 20} MiB.")
    try:
        content = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise BadRequest(f"{label} is not YAML: {error}"[:300]) from error
    if not isinstance(content, dict):
        raise BadRequest(f"{label} must be a mapping.")
    return content


def _files(source: Path) -> Iterator[tuple[str, int]]:
    """Every file below `source`, opened for reading; a link or a special file is refused, not followed."""
    for directory, names, files in os.walk(source):
        for name in sorted([*names, *files]):
            path = Path(directory) / name
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            inside = path.relative_to(source).as_posix()
            if not stat.S_ISREG(mode):
                raise BadRequest(
                    f"The version has something that is no plain file: {inside[:120]!r}.",
                    next_step="Replace links by the files they point to.",
                )
            yield inside, os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
