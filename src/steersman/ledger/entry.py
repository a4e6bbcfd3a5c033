"""One entry of the ledger: its envelope and the exact bytes that are hashed, stored and exported.

The bytes are canonical JSON (RFC 8785), made once at the append and never again: what is stored is what was hashed, so
no later change of a serialiser can break a proof. Numbers are where canonical forms go wrong, hence floats are refused
(a metric is written as a string, as it was shown) and integers stay within what every JSON reader keeps exactly.

Two times: ``at`` is when it happened in the world the decision was about (event time; it moves in a replay),
``recorded_at`` is when it was written down (wall clock). Both are part of the body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias, cast

BODY_BYTES_MAX = 64 * 1024
"""Largest body of an entry. What is larger belongs into content-addressed storage and is named by its digest."""

DEPTH_MAX = 16
"""Deepest nesting of ``data``: far beyond what an entry needs, far below what exhausts a parser's stack."""

INTEGER_MAX = 2**53 - 1
"""Largest integer that RFC 8785 (IEEE 754 doubles) and every JSON reader keep exactly."""

ENVELOPE_VERSION = 1

Json: TypeAlias = "str | int | bool | Sequence[Json] | Mapping[str, Json] | None"
"""What ``data`` may hold. No floats."""

_KEYS = ("v", "id", "at", "recorded_at", "actor", "action", "object", "because", "request_id", "data")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class EntryError(ValueError):
    """An entry that cannot be put into the ledger, or bytes that are no entry; the message names the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who did it: a person, a service or the system itself."""

    issuer: str
    subject: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """What it was done to. ``more`` holds further names, such as ``environment``, ``version`` or ``release``."""

    kind: str
    workspace: str
    name: str
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    id: str
    at: datetime
    recorded_at: datetime
    actor: Actor
    action: str
    object: Object
    because: str
    request_id: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)

    def body(self) -> bytes:
        """The canonical bytes. Raises ``EntryError`` on floats, naive times or more than 64 KiB."""
        clash = {"kind", "workspace", "name"} & self.object.more.keys()
        if clash:
            raise EntryError(f"object.more must not repeat {', '.join(sorted(clash))}")
        body = canonical_json(
            {
                "v": ENVELOPE_VERSION,
                "id": self.id,
                "at": time_text(self.at),
                "recorded_at": time_text(self.recorded_at),
                "actor": {"issuer": self.actor.issuer, "subject": self.actor.subject, "kind": self.actor.kind},
                "action": self.action,
                "object": {
                    "kind": self.object.kind,
                    "workspace": self.object.workspace,
                    "name": self.object.name,
                    **self.object.more,
                },
                "because": self.because,
                "request_id": self.request_id,
                "data": self.data,
            }
        )
        if len(body) > BODY_BYTES_MAX:
            raise EntryError(
                f"the entry {self.action} has {len(body)} bytes, at most {BODY_BYTES_MAX} are kept: "
                "store what is large by digest and name the digest"
            )
        return body


def time_text(moment: datetime) -> str:
    """RFC 3339 in UTC, always with six digits of a second, so that text order is time order."""
    if moment.tzinfo is None:
        raise EntryError(f"times in the ledger are aware, got the naive {moment.isoformat()}")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def canonical_json(value: Json) -> bytes:
    """RFC 8785 bytes of ``value``; raises ``EntryError`` naming the path of what has no exact form."""
    parts: list[str] = []
    _write(value, "$", 0, parts)
    try:
        return "".join(parts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise EntryError("a text holds half of a surrogate pair and has no UTF-8 form") from error


def _write(value: Json, path: str, depth: int, parts: list[str]) -> None:
    if depth > DEPTH_MAX:
        raise EntryError(f"{path} is nested deeper than {DEPTH_MAX} levels")
    if value is None or isinstance(value, bool):
        parts.append("null" if value is None else "true" if value else "false")
    elif isinstance(value, str):
        parts.append(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, int):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise EntryError(f"{path} is beyond the integers JSON keeps exactly, give it as a string: {value}")
        parts.append(str(int(value)))
    elif isinstance(value, Mapping):
        _write_object(value, path, depth, parts)
    elif isinstance(value, list | tuple):
        parts.append("[")
        for index, item in enumerate(value):
            parts.append("," if index else "")
            _write(item, f"{path}[{index}]", depth + 1, parts)
        parts.append("]")
    else:
        hint = ": give numbers with a fraction as strings" if isinstance(value, float) else ""
        raise EntryError(f"{path} is a {type(value).__name__}, which has no exact form in the ledger{hint}")


def _write_object(value: Mapping[str, Json], path: str, depth: int, parts: list[str]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise EntryError(f"{path} has a key that is no text: {key!r}")
    parts.append("{")
    # RFC 8785 section 3.2.3 sorts by UTF-16 code units, which differs from Python's order beyond the basic plane.
    for index, key in enumerate(sorted(value, key=lambda text: text.encode("utf-16-be", "surrogatepass"))):
        parts.append(("," if index else "") + json.dumps(key, ensure_ascii=False) + ":")
        _write(value[key], f"{path}.{key}", depth + 1, parts)
    parts.append("}")


def _refuse(text: str) -> NoReturn:
    raise EntryError(f"the entry holds a number with a fraction or no number at all: {text[:40]}")


def parse_entry(body: bytes) -> Entry:
    """Read the bytes of an entry; raises ``EntryError`` unless they are exactly what ``Entry.body`` writes.

    Exactly: other spacing, key order, doubled or unknown keys are refused, so that a reader never sees something else
    than what the next reader sees.
    """
    if len(body) > BODY_BYTES_MAX:
        raise EntryError(f"the entry has {len(body)} bytes, at most {BODY_BYTES_MAX} are allowed")
    try:
        found = json.loads(body, parse_float=_refuse, parse_constant=_refuse)
    except EntryError:
        raise
    except (ValueError, RecursionError) as error:
        raise EntryError("the entry is not JSON") from error
    if not isinstance(found, dict) or canonical_json(found) != body:
        raise EntryError("the entry is not in canonical form (RFC 8785)")
    if set(found) != set(_KEYS):
        odd = sorted(set(found) ^ set(_KEYS))
        raise EntryError(f"the entry lacks or has unknown keys: {', '.join(odd)[:200]}")
    if found["v"] != ENVELOPE_VERSION or isinstance(found["v"], bool):
        raise EntryError(f"the entry has envelope version {found['v']!r}, this reader knows {ENVELOPE_VERSION}")
    texts = {key: _text(found, key) for key in ("id", "action", "because")}
    actor, thing = _object(found, "actor"), _object(found, "object")
    request_id, data = found["request_id"], found["data"]
    if set(actor) != {"issuer", "subject", "kind"}:
        raise EntryError("actor must have exactly issuer, subject and kind")
    if not (request_id is None or isinstance(request_id, str)) or not isinstance(data, dict):
        raise EntryError("request_id must be a text or null, data an object")
    return Entry(
        **texts,
        at=_time(found, "at"),
        recorded_at=_time(found, "recorded_at"),
        actor=Actor(**{key: _text(actor, key) for key in actor}),
        object=Object(
            kind=_text(thing, "kind"),
            workspace=_text(thing, "workspace"),
            name=_text(thing, "name"),
            more={key: _text(thing, key) for key in thing.keys() - {"kind", "workspace", "name"}},
        ),
        request_id=request_id,
        data=data,
    )


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise EntryError(f"{key} must be a text")
    return value


def _object(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(found[key], dict):
        raise EntryError(f"{key} must be an object")
    return cast("dict[str, Any]", found[key])


def _time(found: Mapping[str, Any], key: str) -> datetime:
    text = _text(found, key)
    try:
        if _TIME.fullmatch(text):
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        pass
    raise EntryError(f"{key} must be a time in UTC such as 2013-05-01T00:00:00.000000Z")
