"""Where the tables live: a folder of this machine, or a prefix of an S3-compatible object store.

The committer writes, the control server reads, and both mean the same place: `tables/` of the state directory, or what
`STEERSMAN_TABLES` names (`s3://bucket/prefix`), with the address and the credentials in the usual `AWS_*` variables. A
secret is in the environment of these two and of the committer's upkeep, and nowhere else: on no command line, in no file
of ours, in no log.

A Delta commit is safe on an object store when an entry of the log can be created only where none is. deltalake asks for
that with a *conditional put* (`If-None-Match: *`), which Amazon S3, SeaweedFS, MinIO, Ceph and R2 carry out; so no table
of locks is needed, and two writers cannot overwrite each other's entry. `AWS_S3_ALLOW_UNSAFE_RENAME`, the switch for
stores that cannot, is never set here: with it a foreign writer's commit could be lost without a word.

Paths are relative, with `/` between the parts, on both.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol

LOCATION = "STEERSMAN_TABLES"
"""The variable that names the object store; without it the tables are in the state directory."""

_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9._=-]+)*)/?")

_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_ENDPOINT_URL": "endpoint",
    "AWS_REGION": "region",
}
"""What the environment may say, and what the client for single objects calls it."""

UNFINISHED = ".unfinished"
"""What the name of a file ends with that was set aside because a power cut left it, or what it names, unfinished."""

RETRIES_MAX = 3
"""Attempts after the first of one request to an object store: a hiccup is bridged, and a server that is down is told
within seconds, so that the log goes on waiting and a flush answers."""

_RETRY_S = 10
_CONNECT_S = 5
_REQUEST_S = 60

REGION = "us-east-1"
"""What servers that know no regions (SeaweedFS, MinIO) expect in a signature."""


class StorageError(OSError):
    """The place of the tables does not answer, or refuses; the text says which and names no secret."""


class StorageRefusedError(StorageError):
    """It answers, and will not let us in until somebody changes the credentials, the bucket or its policy."""


class Storage(Protocol):
    """One place. With `uri(path)` go `options` to deltalake and `scan_options` to Polars; None for files."""

    options: dict[str, str] | None
    scan_options: dict[str, str] | None

    def uri(self, path: str) -> str: ...

    def read(self, path: str) -> bytes | None:
        """The whole object; None where there is none. Raises StorageError."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Replace the object in one step, durable when this returns. Raises StorageError or OSError."""
        ...

    def folders(self, path: str) -> list[str]:
        """Names of the folders directly below."""
        ...

    def files(self, path: str) -> set[str]:
        """Every file below, relative to `path`."""
        ...

    def sync(self, paths: Iterable[str]) -> None:
        """Bring files, and the folders they are in, to the disk; an object store has them there already."""
        ...

    def check(self) -> None:
        """Raises StorageRefusedError where nobody will ever be let in like this, StorageError where nothing answers."""
        ...


class LocalStorage:
    """A folder."""

    options: dict[str, str] | None = None
    scan_options: dict[str, str] | None = None

    def __init__(self, root: Path) -> None:
        self._root = root

    def uri(self, path: str) -> str:
        return str(self._root / path)

    def read(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(target.name + ".new")
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staging.rename(target)

    def folders(self, path: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._root / path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
        return []

    def files(self, path: str) -> set[str]:
        root = self._root / path
        return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return (self._root / path).stat().st_size
        except FileNotFoundError:
            return None

    def set_aside(self, path: str) -> None:
        """Give a file a name under which nobody looks for it."""
        (self._root / path).rename(self._root / f"{path}{UNFINISHED}")

    def sync(self, paths: Iterable[str]) -> None:
        folders: set[Path] = set()
        for path in paths:
            file = self._root / path
            with contextlib.suppress(FileNotFoundError):  # replaced by a compaction and vacuumed meanwhile
                _sync(file)
            folders |= {file.parent, file.parent.parent}
        for folder in folders:
            _sync(folder)

    def check(self) -> None:
        return


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ObjectStorage:
    """A prefix of a bucket, over S3's protocol. `variables` are the `AWS_*` ones that count, and no others."""

    def __init__(self, uri: str, variables: Mapping[str, str]) -> None:
        """Raises ValueError where `uri` is none."""
        bucket, prefix = parse_uri(uri)
        from obstore.store import S3Store

        given = {name: variables[name] for name in _VARIABLES if variables.get(name)}
        given.setdefault("AWS_REGION", REGION)
        plain = given.get("AWS_ENDPOINT_URL", "").startswith("http://")
        self._root = f"s3://{bucket}/{prefix}".rstrip("/")
        self.scan_options: dict[str, str] | None = {**given, "AWS_ALLOW_HTTP": str(plain).lower()}
        self.options: dict[str, str] | None = {
            **self.scan_options,
            "conditional_put": "etag",
            "max_retries": str(RETRIES_MAX),
            "retry_timeout": f"{_RETRY_S}s",
            "connect_timeout": f"{_CONNECT_S}s",
            "timeout": f"{_REQUEST_S}s",
        }
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            config={_VARIABLES[name]: value for name, value in given.items()},  # type: ignore[arg-type]
            client_options={"allow_http": plain, "connect_timeout": f"{_CONNECT_S}s", "timeout": f"{_REQUEST_S}s"},
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=_RETRY_S)},
        )

    def uri(self, path: str) -> str:
        return f"{self._root}/{path}"

    def read(self, path: str) -> bytes | None:
        import obstore

        try:
            with self._saying(path):
                return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        import obstore

        with self._saying(path):
            obstore.put(self._store, path, data)

    def folders(self, path: str) -> list[str]:
        import obstore

        with self._saying(path):
            found = obstore.list_with_delimiter(self._store, prefix=path)
            return sorted(str(prefix).rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def files(self, path: str) -> set[str]:
        import obstore

        with self._saying(path):
            listed = (one["path"] for chunk in obstore.list(self._store, prefix=path) for one in chunk)
            return {found.removeprefix(f"{path}/") for found in listed}

    def sync(self, paths: Iterable[str]) -> None:
        return

    def check(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.read("tables.probe")
        self.write("tables.probe", b"written at each start, to know that writing is allowed\n")

    @contextlib.contextmanager
    def _saying(self, path: str) -> Iterator[None]:
        """Turn what the client raises into a sentence; `FileNotFoundError` stays what it is."""
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            said = str(error)
            code = re.search(r"<Code>(\w{1,60})</Code>", said)
            if code is not None and code[1] in _REFUSALS:
                raise StorageRefusedError(f"{self._root} refuses ({code[1]}): {_REFUSALS[code[1]]}") from None
            if "403 Forbidden" in said or "401 Unauthorized" in said:
                raise StorageRefusedError(f"{self._root} refuses: {_REFUSALS['AccessDenied']}") from None
            why = code[1] if code is not None else said.splitlines()[0][:200]
            raise StorageError(f"{self._root}/{path} cannot be reached: {why}") from None


_REFUSALS = {
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidAccessKeyId": "it does not know the access key",
    "AccessDenied": "the credentials may not read and write there",
    "NoSuchBucket": "there is no such bucket; make it first",
    "PermanentRedirect": "the bucket is in another region",
    "AuthorizationHeaderMalformed": "the bucket is in another region",
}
"""Answers that waiting does not change, by S3's error code."""


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes at its ends) of `s3://bucket/prefix`. Raises ValueError."""
    found = _URI.fullmatch(uri)
    if found is None or ".." in uri:
        raise ValueError(f"{uri[:80]!r} is no place for tables; write s3://bucket/prefix")
    return found[1], found[2].strip("/")


def open_storage(state: Path, environment: Mapping[str, str] | None = None) -> Storage:
    """What the environment names, else the folder of the state directory. Raises ValueError for a URI that is none."""
    variables = os.environ if environment is None else environment
    uri = variables.get(LOCATION)
    return ObjectStorage(uri, variables) if uri else LocalStorage(state / "tables")
