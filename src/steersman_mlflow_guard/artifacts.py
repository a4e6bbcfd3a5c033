"""Which stored files belong to a registered version: they never change again.

MLflow lets anyone overwrite the files of a registered version, and whoever resolves `models:/name/3` next gets others.
Registering is therefore the end of writing: whatever lies under the storage location of any registered version is
read-only from then on, and whoever wants other files registers another version.

The answer must hold at every upload, and asking the database each time would double its cost; so it is an index, built
from the registry store and dropped whenever a request that may register or delete something has passed.
"""

from __future__ import annotations

import posixpath
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

PAGE_VERSIONS = 1000
AGE_MAX_S = 60.0
"""The index is rebuilt at least this often, in case something else writes to MLflow's database."""

_LOGGED_MODEL = re.compile(r"(?:^models:/|/models/)(m-[0-9a-z]+)")


class VersionStore(Protocol):
    """The two methods of MLflow's registry store the index needs."""

    def search_model_versions(
        self, filter_string: Any = None, max_results: int = ..., order_by: Any = None, page_token: Any = None
    ) -> Any: ...

    def get_model_version_download_uri(self, name: str, version: str) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredFiles:
    """One registered version and where its files lie below the artifact root; `root` is empty where it has none."""

    name: str
    number: int
    run_id: str
    root: str
    logged_model: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


def normal(path: str) -> str:
    """A form in which two spellings of one stored file are equal, also on file systems that fold case."""
    joined = posixpath.normpath(f"/{path.strip('/')}").strip("/")
    return unicodedata.normalize("NFC", joined).casefold()


def root_of(location: str) -> str:
    """The path below the artifact root that a storage location names; empty when MLflow does not proxy it."""
    parts = urlsplit(location)
    if parts.scheme == "mlflow-artifacts":
        return normal(parts.path)
    if parts.scheme in ("http", "https"):
        return normal(parts.path.partition("/mlflow-artifacts/artifacts/")[2])
    return ""


class ArtifactIndex:
    """Thread-safe; every question costs one scan of the registered versions in memory (0.1 ms at 1,000)."""

    def __init__(self, store: Callable[[], VersionStore]) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: tuple[RegisteredFiles, ...] | None = None
        self._built_s = 0.0
        self._locations: dict[tuple[str, int, int], str] = {}

    def forget(self) -> None:
        """A version may have come or gone: look again before the next answer."""
        with self._lock:
            self._known = None

    def owner(self, path: str, *, or_below: bool = False) -> RegisteredFiles | None:
        """The version that `path` belongs to; `or_below` also finds one that lies under it (what deleting it would take)."""
        asked = normal(path)
        for files in self._all():
            if not files.root:
                continue
            inside = asked == files.root or asked.startswith(f"{files.root}/")
            if inside or (or_below and (not asked or files.root.startswith(f"{asked}/"))):
                return files
        return None

    def of_logged_model(self, model_id: str) -> list[RegisteredFiles]:
        return [files for files in self._all() if files.logged_model == model_id.casefold()]

    def of_run(self, run_id: str) -> list[RegisteredFiles]:
        return [files for files in self._all() if files.run_id == run_id]

    def of_experiment(self, experiment_id: str) -> list[RegisteredFiles]:
        return [files for files in self._all() if files.root.split("/", 1)[0] == experiment_id]

    def _all(self) -> Sequence[RegisteredFiles]:
        with self._lock:
            if self._known is None or time.monotonic() - self._built_s > AGE_MAX_S:
                self._known = tuple(self._read())
                self._built_s = time.monotonic()
            return self._known

    def _read(self) -> list[RegisteredFiles]:
        store, found, token = self._store(), [], None
        while True:
            page = store.search_model_versions(max_results=PAGE_VERSIONS, page_token=token)
            found += [self._files(store, version) for version in page]
            token = page.token
            if not token:
                return found

    def _files(self, store: VersionStore, version: Any) -> RegisteredFiles:
        key = (version.name, int(version.version), int(version.creation_timestamp))
        if key not in self._locations:
            location = store.get_model_version_download_uri(version.name, str(version.version))
            self._locations[key] = location or version.source or ""
        location = self._locations[key]
        logged_model = _LOGGED_MODEL.search(version.source or "") or _LOGGED_MODEL.search(location)
        return RegisteredFiles(
            name=version.name,
            number=int(version.version),
            run_id=version.run_id or "",
            root=root_of(location),
            logged_model=logged_model[1] if logged_model else "",
        )
