"""What a version must say of itself: a file, a heading of it with text below, or a field of a YAML file.

Written `MODEL_CARD.md`, `MODEL_CARD.md#Intended use`, `MLmodel:metadata.owner`. Reading the files is somebody else's; here
is what a requirement means and whether a text satisfies it. The files are a stranger's: nothing of them is executed, and
YAML is read as plain data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t#]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """`file` relative to the version's files; at most one of `heading` and `fields`."""

    file: str
    heading: str | None = None
    fields: tuple[str, ...] = ()


def parse_requirement(text: str) -> Requirement:
    """The requirement `text` means; raises `ValueError` with the accepted forms when it means none."""
    file, hash_mark, heading = text.partition("#")
    file, colon, names = file.partition(":")
    parts = file.split("/")
    if not all(parts) or {".", ".."} & set(parts) or (hash_mark and (colon or not heading.strip())):
        raise ValueError(f"must be FILE, FILE#Heading or FILE:field.of.yaml, got {text[:60]!r}")
    fields = tuple(names.split("."))
    if colon and not all(fields):
        raise ValueError(f"must be FILE, FILE#Heading or FILE:field.of.yaml, got {text[:60]!r}")
    return Requirement(file=file, heading=heading.strip() or None, fields=fields if colon else ())


def lacking(requirement: Requirement, text: str | None) -> str | None:
    """What a file's text lacks of a requirement, in words; None where it has it. `text` is None where there is no file."""
    if text is None:
        return f"{requirement.file} is not among the version's files"
    if not text.strip():
        return f"{requirement.file} is empty"
    if requirement.heading is not None:
        return _section(requirement, text)
    return _field(requirement, text) if requirement.fields else None


def _section(requirement: Requirement, text: str) -> str | None:
    """A heading counts when something other than headings stands below it, before the next one of its level or above."""
    level = None
    assert requirement.heading is not None
    for line in text.splitlines():
        found = _HEADING.match(line)
        if level is None:
            if found is not None and found[2].casefold() == requirement.heading.casefold():
                level = len(found[1])
        elif found is not None:
            if len(found[1]) <= level:
                break
        elif line.strip():
            return None
    if level is None:
        return f"{requirement.file} has no heading {requirement.heading!r}"
    return f"{requirement.file} says nothing below the heading {requirement.heading!r}"


def _field(requirement: Requirement, text: str) -> str | None:
    name = ".".join(requirement.fields)
    try:
        found: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return f"{requirement.file} is not YAML"
    for field in requirement.fields:
        found = found.get(field) if isinstance(found, Mapping) else None
    return None if found not in (None, "", [], {}) else f"{requirement.file} says nothing at {name}"
