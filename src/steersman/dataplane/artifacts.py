"""A version is bytes with a digest.

At registration the files of a version are hashed as a tree and copied here; everything after (gate, approval, deploy,
load) names the digest. A later overwrite in the registry therefore cannot reach production, and a worker can check for
itself, without asking anybody, that what it loads is what was judged.

The digest of a tree is `sha256:` and the SHA-256 over its sorted manifest, one line a file,
`"<sha256 hex>  <relative posix path>\\n"`, the format of `sha256sum`: anyone can recompute it with a shell.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

FILES_MAX = 5_000
"""Files of one version; an MLflow tree has about ten, one with vendored code some hundred."""

BYTES_MAX = 8 * 1024**3
"""Bytes of one version: above this a model belongs on shared storage, not in copies on a serving host."""

DEPTH_MAX = 32
_CHUNK_BYTES = 1024 * 1024
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class ArtifactError(Exception):
    """A tree of files cannot be a version: what is wrong with it, and which file."""


class DigestMismatchError(ArtifactError):
    """The bytes are not those that were judged."""


class TreeFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a tree; `path` is relative and posix."""

    path: str
    sha256: str
    bytes: int


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """Relative posix path and size of every regular file below `root`; anything else is refused."""
    pending: list[tuple[Path, str, int]] = [(root, "", 0)]
    while pending:
        folder, prefix, depth = pending.pop()
        if depth > DEPTH_MAX:
            raise ArtifactError(f"{prefix}: more than {DEPTH_MAX} folders deep")
        with os.scandir(folder) as entries:
            for entry in entries:
                relative = prefix + entry.name
                if not relative.isprintable():
                    raise ArtifactError(f"{relative!r}: a file name with control characters")
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append((Path(entry.path), relative + "/", depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    yield relative, status.st_size
                else:
                    kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
                    raise ArtifactError(f"{relative}: {kind}; a version is made of regular files only")


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def manifest(root: Path) -> tuple[TreeFile, ...]:
    """Every file of the tree, sorted by path. Raises ArtifactError for links, special files, or a tree over bounds."""
    if root.is_symlink() or not root.is_dir():
        raise ArtifactError(f"{root.name}: not a folder")
    found: list[tuple[str, int]] = []
    total = 0
    for relative, size in _walk(root):
        found.append((relative, size))
        total += size
        if len(found) > FILES_MAX:
            raise ArtifactError(f"more than {FILES_MAX} files in one version")
        if total > BYTES_MAX:
            raise ArtifactError(f"more than {BYTES_MAX / 1024**3:.0f} GiB in one version")
    if not found:
        raise ArtifactError(f"{root.name}: no files")
    return tuple(
        TreeFile(path=relative, sha256=_hash_file(root / relative), bytes=size) for relative, size in sorted(found)
    )


def digest_of(files: tuple[TreeFile, ...]) -> str:
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def tree_digest(root: Path) -> str:
    """Digest of the files below `root`. Reads every byte."""
    return digest_of(manifest(root))


def verify(root: Path, digest: str) -> None:
    """Raise DigestMismatchError unless the tree is exactly what `digest` names: nothing missing, extra or changed."""
    found = tree_digest(root)
    if found != digest:
        raise DigestMismatchError(
            f"the files are {found}, expected {digest}: a file was changed, added or removed after registration"
        )


class ArtifactStore:
    """Trees by digest under `root` (`artifacts/`): `sha256/<hex>/…`, read-only once there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trees = root / "sha256"

    def path(self, digest: str) -> Path:
        """Where the tree of `digest` lies (or would lie). Raises ArtifactError when `digest` is not one."""
        if not _DIGEST.match(digest):
            raise ArtifactError(f"{digest!r} is not a digest of the form sha256:<64 hex>")
        return self._trees / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_dir()

    def verify(self, digest: str) -> None:
        """Read the stored tree again and compare. Raises ArtifactError when it is missing or was tampered with."""
        if not self.has(digest):
            raise ArtifactError(f"{digest} is not stored here; register the version again")
        verify(self.path(digest), digest)

    def put(self, tree: Path) -> str:
        """Copy `tree` into the store and return its digest; a second put of the same bytes changes nothing.

        What is hashed is the copy, so that a registry writing meanwhile cannot slip other bytes under the digest.
        The copy becomes visible by one rename, after its files reached the disk.
        """
        sizes = dict(_walk(tree)) if tree.is_dir() and not tree.is_symlink() else {}
        if len(sizes) > FILES_MAX or sum(sizes.values()) > BYTES_MAX:
            manifest(tree)
        self._trees.mkdir(parents=True, exist_ok=True)
        staging = self._trees / f".incoming-{uuid.uuid4().hex}"
        try:
            staging.mkdir()
            for relative in sizes:
                target = staging / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_file(tree / relative, target)
            digest = tree_digest(staging)
            final = self.path(digest)
            if final.is_dir():
                return digest
            for folder, _, _ in os.walk(staging):
                _sync(Path(folder))
            try:
                staging.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
            _sync(self._trees)
            return digest
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _copy_file(source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
        writer.flush()
        os.fsync(writer.fileno())
        os.fchmod(writer.fileno(), 0o444)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
