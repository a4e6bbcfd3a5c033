"""May this request pass? One function a decision, over plain values; the caller has parsed them as MLflow will.

A refusal names what to use instead: whoever moves `champion` by hand wants a release, and should read how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from steersman_mlflow_guard.artifacts import ArtifactIndex
from steersman_mlflow_guard.identity import Access, Caller, Kind
from steersman_mlflow_guard.protection import TAG_PREFIX, Mode, Protection
from steersman_mlflow_guard.routes import Decision


class Reason(StrEnum):
    """Machine-readable, in the header `X-Steersman-Refused`."""

    NO_IDENTITY = "no-identity"
    READ_ONLY = "read-only"
    BAD_PATH = "bad-path"
    UNKNOWN_ROUTE = "unknown-route"
    NOT_OFFERED = "not-offered"
    MALFORMED = "malformed"
    FOREIGN_LOCATION = "foreign-location"
    PROTECTED_ALIAS = "protected-alias"
    STAGE = "stage"
    PROTECTED_TAG = "protected-tag"
    GOVERNED_MODEL = "governed-model"
    RELEASED_VERSION = "released-version"
    IMMUTABLE_ARTIFACT = "immutable-artifact"


MANUAL_CHANGES = frozenset(
    {
        Reason.PROTECTED_ALIAS,
        Reason.STAGE,
        Reason.PROTECTED_TAG,
        Reason.GOVERNED_MODEL,
        Reason.RELEASED_VERSION,
        Reason.IMMUTABLE_ARTIFACT,
    }
)
"""What warn mode lets through: attempts to change what is governed. The other reasons are never let through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    reason: Reason
    message: str
    """For people, with the command to use instead."""
    subject: str = ""
    """What it was about, for the ledger: `models:/name@alias`, `models:/name/3`, a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The values of one request that a decision may depend on; a missing field is absent, never empty by accident."""

    fields: Mapping[str, str]
    tags: tuple[str, ...] = ()
    deletes: bool = False

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")

    @property
    def number(self) -> int | None:
        try:
            return int(self["version"])
        except ValueError:
            return None


def judge(
    decision: Decision, asked: Asked, *, caller: Caller, protection: Protection, index: ArtifactIndex
) -> Objection | None:
    """None lets the request pass. `let_through` tells whether an objection only warns."""
    if decision is Decision.NOT_OFFERED:
        return Objection(
            reason=Reason.NOT_OFFERED, message="This part of MLflow is not offered through Steersman: it is kept off."
        )
    if decision is Decision.READ:
        return None
    if caller.access is not Access.WRITE:
        return Objection(
            reason=Reason.READ_ONLY,
            message="Your token may read the registry, not write to it. Ask an admin for the permission registry:write.",
        )
    judging = _JUDGES.get(decision)
    return judging(asked, caller, protection, index) if judging else None


def let_through(objection: Objection, protection: Protection) -> bool:
    return protection.mode is Mode.WARN and objection.reason in MANUAL_CHANGES


def _instead(name: str, number: str = "VERSION") -> str:
    return (
        f"To bring a version into production: `steersman release {name} {number}`. To go back: "
        f"`steersman rollback {name}`. What is live and why: `steersman history {name}`."
    )


def _alias(asked: Asked, caller: Caller, protection: Protection, _index: ArtifactIndex) -> Objection | None:
    name, alias = asked["name"], asked["alias"]
    if not name or not alias:
        return Objection(reason=Reason.MALFORMED, message="name and alias must be given, as strings")
    if caller.kind is Kind.SYSTEM or not protection.protects_alias(alias):
        return None
    return Objection(
        reason=Reason.PROTECTED_ALIAS,
        message=f"The alias {alias!r} of {name!r} follows releases; it is not set by hand. "
        + _instead(name, asked["version"] or "VERSION"),
        subject=f"models:/{name}@{alias}",
    )


def _stage(asked: Asked, _caller: Caller, _protection: Protection, _index: ArtifactIndex) -> Objection | None:
    return Objection(
        reason=Reason.STAGE,
        message=f"Stages are not used here, and the stage of {asked['name']!r} cannot be set. "
        + _instead(asked["name"], asked["version"] or "VERSION"),
        subject=f"models:/{asked['name']}/{asked['version']}",
    )


def _tag(asked: Asked, caller: Caller, _protection: Protection, _index: ArtifactIndex) -> Objection | None:
    taken = [key for key in (asked["key"], *asked.tags) if key.strip().casefold().startswith(TAG_PREFIX)]
    if caller.kind is Kind.SYSTEM or not taken:
        return None
    return Objection(
        reason=Reason.PROTECTED_TAG,
        message=f"Tags that begin with {TAG_PREFIX!r} are written by Steersman only; use another key than {taken[0]!r}.",
        subject=f"models:/{asked['name']}#{taken[0]}",
    )


def _model(asked: Asked, _caller: Caller, protection: Protection, _index: ArtifactIndex) -> Objection | None:
    name = asked["name"]
    if not protection.governs(name):
        return None
    return Objection(
        reason=Reason.GOVERNED_MODEL,
        message=f"The model {name!r} is governed: it can be neither deleted nor renamed while releases name it. "
        f"To take a version out of use: `steersman retire {name} VERSION`.",
        subject=f"models:/{name}",
    )


def _version_delete(asked: Asked, _caller: Caller, protection: Protection, _index: ArtifactIndex) -> Objection | None:
    name, number = asked["name"], asked.number
    if number is not None and not protection.is_released(name, number):
        return None
    return _released(name, asked["version"])


def _released(name: str, number: object) -> Objection:
    return Objection(
        reason=Reason.RELEASED_VERSION,
        message=f"Version {number} of {name!r} was released; what a release names is kept. "
        f"To take it out of use: `steersman retire {name} {number}`.",
        subject=f"models:/{name}/{number}",
    )


def _version_create(asked: Asked, caller: Caller, protection: Protection, index: ArtifactIndex) -> Objection | None:
    return _location(asked["source"], "source") or _tag(asked, caller, protection, index)


def _experiment_create(
    asked: Asked, _caller: Caller, _protection: Protection, _index: ArtifactIndex
) -> Objection | None:
    return _location(asked["artifact_location"], "artifact_location")


_LOCATIONS = frozenset({"mlflow-artifacts", "runs", "models"})
_LOCATIONS_REMOTE = frozenset({"s3", "gs", "wasbs", "abfss"})


def _location(location: str, field: str) -> Objection | None:
    """A path of this machine as location would make MLflow read or write it for whoever asks."""
    scheme = urlsplit(location).scheme.lower()
    if not location or scheme in _LOCATIONS or scheme in _LOCATIONS_REMOTE:
        return None
    if scheme == "" and "/" not in location and "\\" not in location and not location.startswith("."):
        return None  # a prompt's source is a plain word
    return Objection(
        reason=Reason.FOREIGN_LOCATION,
        message=f"The {field} must lie in MLflow's own artifact storage or in a bucket, not in files of this machine; "
        "leave it out to use the default.",
    )


def _experiment_delete(asked: Asked, _caller: Caller, protection: Protection, index: ArtifactIndex) -> Objection | None:
    for files in index.of_experiment(asked["experiment_id"]):
        if protection.is_released(files.name, files.number):
            return _released(files.name, files.number)
    return None


def _run_delete(asked: Asked, _caller: Caller, protection: Protection, index: ArtifactIndex) -> Objection | None:
    for files in index.of_run(asked["run_id"]):
        if protection.is_released(files.name, files.number):
            return _released(files.name, files.number)
    return None


def _logged_model_delete(
    asked: Asked, _caller: Caller, _protection: Protection, index: ArtifactIndex
) -> Objection | None:
    found = index.of_logged_model(asked["model_id"])
    return _immutable(found[0].uri, asked["model_id"]) if found else None


def _artifact(asked: Asked, _caller: Caller, _protection: Protection, index: ArtifactIndex) -> Objection | None:
    found = index.owner(asked["artifact_path"], or_below=asked.deletes)
    return _immutable(found.uri, asked["artifact_path"]) if found else None


def _immutable(uri: str, path: str) -> Objection:
    return Objection(
        reason=Reason.IMMUTABLE_ARTIFACT,
        message=f"{path!r} belongs to the registered version {uri}, whose files no longer change. "
        "Log a new model and register it as a new version.",
        subject=uri,
    )


_JUDGES: dict[Decision, Callable[[Asked, Caller, Protection, ArtifactIndex], Objection | None]] = {
    Decision.EXPERIMENT_CREATE: _experiment_create,
    Decision.EXPERIMENT_DELETE: _experiment_delete,
    Decision.RUN_DELETE: _run_delete,
    Decision.LOGGED_MODEL_DELETE: _logged_model_delete,
    Decision.MODEL_CREATE: _tag,
    Decision.MODEL_RENAME: _model,
    Decision.MODEL_DELETE: _model,
    Decision.MODEL_TAG: _tag,
    Decision.MODEL_UNTAG: _tag,
    Decision.VERSION_CREATE: _version_create,
    Decision.VERSION_STAGE: _stage,
    Decision.VERSION_DELETE: _version_delete,
    Decision.VERSION_TAG: _tag,
    Decision.VERSION_UNTAG: _tag,
    Decision.ALIAS_SET: _alias,
    Decision.ALIAS_DELETE: _alias,
    Decision.ARTIFACT_WRITE: _artifact,
}
