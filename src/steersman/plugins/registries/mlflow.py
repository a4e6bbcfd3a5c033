"""MLflow as the registry that versions come from, over its REST API.

One plugin for the embedded MLflow and for a team's own server. It never imports mlflow, never touches its database
(its schema changes every other week) and never loads a model: it lists, describes, and copies files. How the files are
reached depends on where they lie: through MLflow's artifact proxy, or, when a server keeps them in a bucket it does not
proxy, through the server's own download routes; no bucket credentials are needed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from steersman.domain.errors import BadRequest, LimitReached, NotFound, NotSupported
from steersman.plugins.registries.mlflow_rest import MlflowRest
from steersman.plugins.registries.mlmodel import MLMODEL_BYTES_MAX, described
from steersman.plugins.registries.trees import FILES_MAX, Tree, registered_name, relative
from steersman.ports import Description, RegisteredVersion

PAGE = 200
VERSIONS_MAX = 100_000
"""Of one name; a nightly retraining makes 365 a year."""
NAMES_SHOWN = 20
REGISTRAR_TAG = "steersman.registered_by"
"""Set by our guard when a version is registered through it; nobody else can set it there."""

_API = "/api/2.0/mlflow"
_LOGGED_MODEL = re.compile(r"(?:^models:/|/models/)(m-[0-9a-z]+)")


class MlflowRegistry:
    """The `Registry` port over MLflow. Each method costs one to a few requests of about 10 ms."""

    def __init__(self, rest: MlflowRest) -> None:
        self._rest = rest

    def check(self) -> str:
        self._rest.get(f"{_API}/registered-models/search", max_results=1)
        return f"MLflow {self._rest.text('/version').strip()[:40]} at {self._rest.url}"

    def versions(self, name: str) -> list[RegisteredVersion]:
        self._model(name)
        found: list[RegisteredVersion] = []
        token = ""
        while True:
            query: dict[str, str | int] = {"filter": f"name='{name}'", "max_results": PAGE}
            page = self._rest.get(f"{_API}/model-versions/search", **query, **({"page_token": token} if token else {}))
            found += [_registered(entry) for entry in page.get("model_versions", [])]
            token = page.get("next_page_token", "")
            if not token:
                return sorted(found, key=lambda version: version.number)
            if len(found) > VERSIONS_MAX:
                raise LimitReached(f"{name!r} has more than {VERSIONS_MAX} versions.")

    def describe(self, name: str, number: int) -> Description:
        entry = self._version(name, number)
        return self._describe(entry, self._files(entry))

    def fetch(self, name: str, number: int, into: Path) -> Description:
        entry = self._version(name, number)
        files = self._files(entry)
        description = self._describe(entry, files)
        tree = Tree(into)
        for path, size in self._listed(files):
            written = tree.write(path, files.read(path))
            if size is not None and written != size:
                raise BadRequest(f"{path!r} of {name} {number} changed while it was copied; fetch it again.")
        tree.require(description.file)
        return description

    def aliases(self, name: str) -> dict[str, int]:
        entries = self._model(name).get("aliases", [])
        return {str(entry["alias"]): int(entry["version"]) for entry in entries}

    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        path = f"{_API}/registered-models/alias"
        present = self.aliases(name)
        if number is None:
            if alias in present:
                self._rest.send("DELETE", path, {"name": name, "alias": alias})
        elif present.get(alias) != number:
            self._version(name, number)
            self._rest.send("POST", path, {"name": name, "alias": alias, "version": str(number)})

    def _model(self, name: str) -> dict[str, Any]:
        try:
            answer = self._rest.get(f"{_API}/registered-models/get", name=registered_name(name))
        except NotFound as error:
            page = self._rest.get(f"{_API}/registered-models/search", max_results=NAMES_SHOWN)
            names = ", ".join(str(entry["name"]) for entry in page.get("registered_models", []))
            raise NotFound(
                f"MLflow at {self._rest.url} has no registered model {name!r}; "
                + (f"it has: {names}{', …' if page.get('next_page_token') else ''}." if names else "it has none yet."),
                next_step=f"Register one (`mlflow.register_model(uri, {name!r})`), or correct spec.versions.name.",
            ) from error
        return dict(answer.get("registered_model", {}))

    def _version(self, name: str, number: int) -> dict[str, Any]:
        registered_name(name)
        try:
            answer = self._rest.get(f"{_API}/model-versions/get", name=name, version=str(number))
        except NotFound as error:
            known = ", ".join(str(version.number) for version in self.versions(name)[-NAMES_SHOWN:]) or "none"
            raise NotFound(
                f"{name!r} has no version {number} in MLflow at {self._rest.url}; it has: {known}.",
                next_step="Name one of these, or register the version first.",
            ) from error
        return dict(answer["model_version"])

    def _files(self, entry: dict[str, Any]) -> _Files:
        """Where the version's files can be read."""
        answer = self._rest.get(
            f"{_API}/model-versions/get-download-uri", name=str(entry["name"]), version=str(entry["version"])
        )
        location = str(answer.get("artifact_uri") or entry.get("source") or "")
        parts = urlsplit(location)
        if parts.scheme == "mlflow-artifacts":
            return _Proxied(self._rest, parts.path.strip("/"))
        logged_model = _LOGGED_MODEL.search(str(entry.get("source", ""))) or _LOGGED_MODEL.search(location)
        if logged_model:
            return _OfLoggedModel(self._rest, logged_model[1])
        if entry.get("run_id"):
            root = str(self._run(str(entry["run_id"])).get("info", {}).get("artifact_uri", "")).rstrip("/")
            if root and location.startswith(f"{root}/"):
                return _OfRun(self._rest, str(entry["run_id"]), location[len(root) + 1 :])
        raise NotSupported(
            f"The files of {entry['name']} {entry['version']} lie where this MLflow does not hand them out "
            f"(scheme {parts.scheme or 'none'}).",
            next_step="Start MLflow with --serve-artifacts, or register the model from a run of this server.",
        )

    def _describe(self, entry: dict[str, Any], files: _Files) -> Description:
        text = b""
        for chunk in files.read("MLmodel"):
            text += chunk
            if len(text) > MLMODEL_BYTES_MAX:
                break
        return described(text, params=self._params(entry))

    def _params(self, entry: dict[str, Any]) -> dict[str, str]:
        """The training's parameters: of the logged model, else of the run; none when the run is gone."""
        logged_model = _LOGGED_MODEL.search(str(entry.get("source", "")))
        found: list[dict[str, Any]] = []
        try:
            if logged_model:
                model = self._rest.get(f"{_API}/logged-models/{logged_model[1]}").get("model", {})
                found = model.get("data", {}).get("params", [])
            if not found and entry.get("run_id"):
                found = self._run(str(entry["run_id"])).get("data", {}).get("params", [])
        except NotFound:
            return {}
        return {str(param["key"]): str(param["value"]) for param in found}

    def _run(self, run_id: str) -> dict[str, Any]:
        return dict(self._rest.get(f"{_API}/runs/get", run_id=run_id).get("run", {}))

    def _listed(self, files: _Files) -> Iterator[tuple[str, int | None]]:
        """Every file of the tree with its size, walked directory by directory within bounds."""
        pending, seen = [""], 0
        while pending:
            for path, is_directory, size in files.list(pending.pop()):
                relative(path)
                seen += 1
                if seen > FILES_MAX:
                    raise LimitReached(f"The version has more than {FILES_MAX} files.")
                if is_directory:
                    pending.append(path)
                else:
                    yield path, size


class _Files(Protocol):
    """A version's files: paths are relative to its root."""

    def list(self, directory: str) -> Iterator[tuple[str, bool, int | None]]: ...

    def read(self, path: str) -> Iterator[bytes]: ...


def _entries(answer: dict[str, Any], directory: str) -> Iterator[tuple[str, bool, int | None]]:
    for entry in answer.get("files", []):
        name = str(entry["path"]).rsplit("/", 1)[-1]
        size = entry.get("file_size")
        path = f"{directory}/{name}" if directory else name
        yield path, bool(entry.get("is_dir")), None if size is None else int(size)


class _Proxied:
    """Below MLflow's artifact proxy."""

    def __init__(self, rest: MlflowRest, root: str) -> None:
        self._rest = rest
        self._root = root

    def list(self, directory: str) -> Iterator[tuple[str, bool, int | None]]:
        path = f"{self._root}/{directory}".strip("/")
        return _entries(self._rest.get("/api/2.0/mlflow-artifacts/artifacts", path=path), directory)

    def read(self, path: str) -> Iterator[bytes]:
        return self._rest.download(f"/api/2.0/mlflow-artifacts/artifacts/{quote(f'{self._root}/{path}')}")


class _OfLoggedModel:
    """Files of an MLflow 3 LoggedModel, handed out by the server wherever it keeps them."""

    def __init__(self, rest: MlflowRest, model_id: str) -> None:
        self._rest = rest
        self._model_id = model_id

    def list(self, directory: str) -> Iterator[tuple[str, bool, int | None]]:
        query = {"artifact_directory_path": directory} if directory else {}
        return _entries(
            self._rest.get(f"{_API}/logged-models/{self._model_id}/artifacts/directories", **query), directory
        )

    def read(self, path: str) -> Iterator[bytes]:
        return self._rest.download(
            f"/ajax-api/2.0/mlflow/logged-models/{self._model_id}/artifacts/files", artifact_file_path=path
        )


class _OfRun:
    """Files a run logged below `root`, handed out by the server wherever it keeps them."""

    def __init__(self, rest: MlflowRest, run_id: str, root: str) -> None:
        self._rest = rest
        self._run_id = run_id
        self._root = root

    def list(self, directory: str) -> Iterator[tuple[str, bool, int | None]]:
        path = f"{self._root}/{directory}".strip("/")
        return _entries(self._rest.get(f"{_API}/artifacts/list", run_id=self._run_id, path=path), directory)

    def read(self, path: str) -> Iterator[bytes]:
        return self._rest.download("/get-artifact", run_id=self._run_id, path=f"{self._root}/{path}")


def _registered(entry: dict[str, Any]) -> RegisteredVersion:
    tags = {str(tag["key"]): str(tag["value"]) for tag in entry.get("tags", [])}
    return RegisteredVersion(
        name=str(entry["name"]),
        number=int(entry["version"]),
        source=str(entry.get("source", "")),
        created_at=datetime.fromtimestamp(int(entry["creation_timestamp"]) / 1000, UTC),
        created_by=tags.get(REGISTRAR_TAG) or str(entry.get("user_id", "")),
        run_id=str(entry.get("run_id", "")),
        tags=tags,
    )
