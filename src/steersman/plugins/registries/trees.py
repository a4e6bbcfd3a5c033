"""Copying a version's files without trusting their names or their size.

The names come from a registry that others write to, and they become paths here exactly once: so each segment is
checked, links and special files are refused, every write creates a new file, and size, count and depth have a bound.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from steersman.domain.errors import BadRequest, Conflict, LimitReached, NotFound

FILES_MAX = 10_000
BYTES_MAX = 8 * 2**30
DEPTH_MAX = 16
SEGMENT_CHARACTERS_MAX = 200

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
"""What a registered model may be called here: it stands in URLs, filters and messages, never in a path of ours."""


def registered_name(name: str) -> str:
    """`name`, when it is one; raises `NotFound` otherwise, because nothing by that name can be registered."""
    if not NAME.fullmatch(name):
        raise NotFound(
            f"{name[:60]!r} cannot be the name of a registered model.",
            next_step="Use letters, digits, '.', '_', '-' and spaces, at most 128, beginning with a letter or digit.",
        )
    return name


def relative(path: str) -> PurePosixPath:
    """A path inside a tree, each segment harmless on every file system. Raises `BadRequest`."""
    segments = path.split("/")
    if len(segments) > DEPTH_MAX:
        raise BadRequest(f"A file of the version lies deeper than {DEPTH_MAX} directories.")
    for segment in segments:
        unprintable = any(ord(character) < 0x20 or character in '\\:"<>|?*\x7f' for character in segment)
        if segment in ("", ".", "..") or unprintable or len(segment) > SEGMENT_CHARACTERS_MAX:
            raise BadRequest(
                f"The version has a file with the unsafe name {path[:120]!r}.",
                next_step="Log the model again without that file, and register a new version.",
            )
    return PurePosixPath(*segments)


class Tree:
    """A directory being filled: made by us, empty at the start, only new regular files, within the bounds."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise Conflict(f"{root.name} is not empty; a version is fetched into a directory of its own.")
        self._root = root.resolve()
        self._files = 0
        self._bytes = 0

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        """Write one file; its size in bytes."""
        self._files += 1
        if self._files > FILES_MAX:
            raise LimitReached(f"The version has more than {FILES_MAX} files.", next_step="Pack them into fewer files.")
        target = self._root / relative(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve() != target.parent:
            raise BadRequest(f"The version has a link where a directory should be: {path[:120]!r}.")
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        size = 0
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                size += len(chunk)
                self._bytes += len(chunk)
                if self._bytes > BYTES_MAX:
                    raise LimitReached(f"The version has more than {BYTES_MAX >> 30} GiB of files.")
                file.write(chunk)
        return size

    def require(self, file: str) -> None:
        """The file a description names is there. Raises `BadRequest`."""
        if not (self._root / file).exists():
            raise BadRequest(
                f"The version's description names the file {file!r}, which the version does not have.",
                next_step="Register a complete version.",
            )
