"""A version: bytes with a digest, and what is known about where they came from.

Registration copies a version's files to content-addressed storage; from then on every decision (gate, approval, deploy,
load) names the digest, so that a later overwrite in the registry cannot reach production.
"""

from datetime import datetime
from enum import StrEnum

import msgspec


class Format(StrEnum):
    """How a version's files must be loaded. The last two carry code and are refused unless this installation names the model."""

    LIGHTGBM = "lightgbm"
    XGBOOST = "xgboost"
    ONNX = "onnx"
    SKOPS = "skops"
    PYFUNC = "pyfunc"
    PICKLE = "pickle"

    @property
    def carries_code(self) -> bool:
        return self in (Format.PYFUNC, Format.PICKLE)


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One input of a signature. `type` is the Open Inference Protocol's word: FP64, FP32, INT64, INT32, BOOL, BYTES."""

    name: str
    type: str
    required: bool = True


class Milestone(StrEnum):
    """Points in a version's life; one word each, the same in enum, ledger, console, stories and glossary."""

    REGISTERED = "registered"
    GATED = "gated"
    APPROVED = "approved"
    MIRRORED = "mirrored"
    CANARIED = "canaried"
    PROMOTED = "promoted"
    OBSERVED = "observed"
    DRIFTED = "drifted"
    INCIDENT = "incident"
    RETRAINED = "retrained"
    RETIRED = "retired"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A registered version of a model.

    `trained_until` is the event time before which every training row's label was known; None when the version was not
    trained by Steersman. `author_chain` lists who may not approve it: trainer, registrar.
    """

    workspace: str
    model: str
    number: int
    digest: str
    format: Format
    file: str
    signature: tuple[Column, ...]
    output: str = "score"
    registered_at: datetime
    registered_by: str
    author_chain: tuple[str, ...] = ()
    source: str = ""
    training: str | None = None
    trained_until: datetime | None = None
    size_bytes: int = 0
    retired_at: datetime | None = None
    retired_because: str | None = None

    @property
    def reference(self) -> str:
        """MLflow's way of naming it: ``models:/name/3``."""
        return f"models:/{self.model}/{self.number}"
