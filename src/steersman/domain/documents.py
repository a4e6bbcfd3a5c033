"""Documents in and out: plain data to `Model`, `Dataset` or `Environment`, all faults at once; digests and differences.

This is the one door. The command line, the client's Python objects and the HTTP API all come through `parse_document`,
so a document means the same wherever it was written. YAML is text and lives with the client
(`steersman.client.documents`); here everything is already plain data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steersman.domain.decoding import Decoding, Invalid, encode, join, shown, suggest
from steersman.domain.errors import BadDocument, Problem
from steersman.domain.spec import Dataset, Document, Environment, Model
from steersman.domain.validation import check

API_VERSION = "steersman/v1"

KINDS: dict[str, type[Model] | type[Dataset] | type[Environment]] = {
    "Model": Model,
    "Dataset": Dataset,
    "Environment": Environment,
}
"""Every kind of document by the word written in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between two documents: what stands at `path`, before and after; None where nothing stood."""

    path: str
    before: object
    after: object

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path}: {_brief(self.after)}"
        if self.after is None:
            return f"- {self.path}: {_brief(self.before)}"
        return f"~ {self.path}: {_brief(self.before)} → {_brief(self.after)}"


def parse_document(data: object, *, source: str = "") -> Document:
    """The document `data` means; raises `BadDocument` with every problem found.

    `data` is plain data or a document already in Python form, which is checked just the same. `source` names the file
    for the error's text.
    """
    problems, document = examine(data)
    if document is None or problems:
        raise BadDocument(problems, source=source)
    return document


def examine(data: object) -> tuple[list[Problem], Document | None]:
    """All problems of `data`, and the document when there are none."""
    if isinstance(data, Model | Dataset | Environment):
        data = encode_document(data)
    if not isinstance(data, Mapping):
        return [Problem(path="", message=f"a document must be a mapping, got {shown(data)}")], None
    decoding = Decoding()
    kind = data.get("kind")
    if data.get("apiVersion") != API_VERSION:
        decoding.refuse("", f"apiVersion must be {API_VERSION}, got {shown(data.get('apiVersion'))}")
    if not isinstance(kind, str) or kind not in KINDS:
        words = ", ".join(KINDS)
        decoding.refuse("", f"kind must be one of {words}, got {shown(kind)}{suggest(str(kind), list(KINDS))}")
        return decoding.problems, None
    if "status" in data:
        decoding.refuse("", "status is written by Steersman; take it out")
    plain = {key: value for key, value in data.items() if key not in ("apiVersion", "kind", "status")}
    document = decoding.struct(KINDS[kind], plain, "")
    if isinstance(document, Invalid) or not isinstance(document, Model | Dataset | Environment):
        return decoding.problems, None
    problems = decoding.problems + check(document)
    return problems, None if problems else document


def encode_document(document: Document, *, defaults: bool = False) -> dict[str, object]:
    """Plain data a person could have written; `parse_document` reads it back to an equal document."""
    plain = encode(document, defaults=defaults)
    assert isinstance(plain, dict)
    return plain


def identity(document: Document) -> tuple[str, str, str]:
    """Kind, workspace and name: what makes two documents versions of one."""
    return document.kind, document.metadata.workspace, document.metadata.name


def canonical(document: Document) -> bytes:
    """One byte string for all ways to write the document: JSON, keys sorted, defaults left out, UTF-8."""
    plain = encode_document(document)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(document: Document) -> str:
    """`sha256:<hex>` of the canonical form. A default written out changes nothing."""
    return "sha256:" + hashlib.sha256(canonical(document)).hexdigest()


def diff(old: Document | None, new: Document | None) -> tuple[Change, ...]:
    """What differs, by path, in the order of the new document; None stands for no document."""
    before = {} if old is None else encode_document(old)
    after = {} if new is None else encode_document(new)
    return tuple(_changes("", before, after))


def _changes(path: str, before: object, after: object) -> list[Change]:
    if before == after:
        return []
    found: list[Change] = []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*after, *(key for key in before if key not in after)]:
            found += _changes(join(path, str(key)), before.get(key), after.get(key))
        return found
    if isinstance(before, Sequence) and isinstance(after, Sequence) and not isinstance(before, str):
        for index in range(max(len(before), len(after))):
            old = before[index] if index < len(before) else None
            new = after[index] if index < len(after) else None
            found += _changes(f"{path}[{index}]", old, new)
        return found
    return [Change(path=path, before=before, after=after)]


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
