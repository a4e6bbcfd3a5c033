"""What all documents share: the struct they are made of, names, metadata, and durations.

A document exists once, as frozen structs. YAML, JSON and Python are three ways to write the same thing, and
`steersman.domain.documents` is the only door between them: it decodes with errors that name the path and encodes back.
(Do not hand these structs to `msgspec.json.encode`: it would write ISO durations and tagged steps, a second dialect.)
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import msgspec

from steersman.domain.durations import PATTERN
from steersman.domain.metrics import METRICS

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)"
"""Names are DNS labels (RFC 1123): they appear in URL paths, file paths and metrics, and need no quoting in any.

The last group keeps a newline out, which `$` alone lets pass in Python; it reads the same in a JSON Schema.
"""

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=63)]
Text = Annotated[str, msgspec.Meta(max_length=2000)]
Column = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_DURATION_SCHEMA = {"pattern": PATTERN, "examples": ["30s", "5m", "2h", "1d"]}
Duration = Annotated[timedelta, msgspec.Meta(extra_json_schema=_DURATION_SCHEMA, extra={"positive": True})]
DurationOrZero = Annotated[timedelta, msgspec.Meta(extra_json_schema=_DURATION_SCHEMA)]
Metric = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(METRICS)})]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A piece of a document: frozen, named arguments only, camelCase when written, unknown fields refused."""


class Metadata(Part, frozen=True, kw_only=True):
    """Who a document belongs to. Name and workspace together identify it; they cannot be changed later."""

    name: Name
    workspace: Name = "default"
    owner: Text = ""
    """A person or group to ask, for example an address; shown, never used for access."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Free text for people and searches; nothing is decided by it."""
