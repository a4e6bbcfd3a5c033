"""The documents around a model: `Dataset`, the rows it learns from, and `Environment`, where it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from steersman.domain.spec.delivery import Freeze
from steersman.domain.spec.parts import Column, Metadata, Name, Part


class Extend(Part, frozen=True, kw_only=True):
    """Append what production answered, each row once its label has matured."""

    model: Name
    environment: Name = "production"


class DatasetSpec(Part, frozen=True, kw_only=True):
    """History in files, and how it grows."""

    uri: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    """Parquet file, or a directory of them; relative to the document's file."""
    time_column: Column
    """When the row's event happened (event time, UTC)."""
    label_column: Column | None = None
    key_column: Column | None = None
    """The event's id; rows of production join on it."""
    available_column: Column | None = None
    """When the row's label became known; training never sees a row before it. Without it, event time plus the horizon
    of the model that uses it."""
    extend: Extend | None = None


class Dataset(Part, frozen=True, kw_only=True):
    """Rows a model learns from and is judged on."""

    api_version: str = "steersman/v1"
    kind: str = "Dataset"
    metadata: Metadata
    spec: DatasetSpec


class PolicyMode(StrEnum):
    """What an error of the linter does when a document is applied."""

    PREVENT = "prevent"
    """It is refused."""
    WARN = "warn"
    """It is shown."""
    OFF = "off"
    """Nothing is looked at."""


class ManualChanges(StrEnum):
    """What becomes of replicas that run in an environment though no release asked for them. Each is recorded once."""

    CORRECT = "correct"
    """They are stopped."""
    ADOPT = "adopt"
    """They are left running; those of a version that answers are given requests too."""
    WARN = "warn"
    """They are left running and given nothing."""


class EnvironmentSpec(Part, frozen=True, kw_only=True):
    """Where versions run, and how strictly rules are kept there."""

    target: Name = "local"
    """Another target is refused in this version."""
    order: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """Environments are shown in this order."""
    mode: PolicyMode = PolicyMode.PREVENT
    """What an error of the linter in a model's section for this environment does to `apply`."""
    freeze: Annotated[tuple[Freeze, ...], msgspec.Meta(max_length=100)] = ()
    manual_changes: ManualChanges = ManualChanges.CORRECT
    """Replicas beside the releases; routes changed beside them are always set right."""


class Environment(Part, frozen=True, kw_only=True):
    """A place where versions answer requests, bound to a target."""

    api_version: str = "steersman/v1"
    kind: str = "Environment"
    metadata: Metadata
    spec: EnvironmentSpec


DEFAULT_ENVIRONMENTS: dict[str, EnvironmentSpec] = {
    "dev": EnvironmentSpec(order=10, mode=PolicyMode.WARN),
    "staging": EnvironmentSpec(order=20),
    "production": EnvironmentSpec(order=30),
}
"""These exist without a document; a document of the same name replaces one."""
