"""Policies: expressions over a version and what is in production, that must be true.

The text is CEL. In this version only comparisons of one field are carried out; any other text is refused when the
document is read, because a policy that is kept and never evaluated would be a promise nobody keeps. Truth is
three-valued: where there is no production version yet, a comparison with it is unknown (None), which is not a pass by
itself; who asks decides what a first release means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

FIELDS = ("signature", "format", "digest", "output")
"""Fields of a version a policy may compare."""

SUPPORTED = (
    "version.FIELD == production.FIELD, version.FIELD != production.FIELD, version.FIELD == 'text' "
    f"with FIELD one of {', '.join(FIELDS)}"
)

_COMPARISON = re.compile(
    r"\s*version\.(?P<field>\w+)\s*(?P<operator>==|!=)\s*"
    r"(?:production\.(?P<other>\w+)|\"(?P<double>[^\"\\]*)\"|'(?P<single>[^'\\]*)')\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A policy of the supported form: a field of the version against production's, or against a text."""

    field: str
    equal: bool
    literal: str | None = None
    """None: compare with the same field of production."""

    def holds(self, version: Mapping[str, object], production: Mapping[str, object] | None) -> bool | None:
        """True, false, or None where a side is unknown."""
        if self.field not in version:
            return None
        if self.literal is None:
            if production is None or self.field not in production:
                return None
            return (version[self.field] == production[self.field]) is self.equal
        return (str(version[self.field]) == self.literal) is self.equal


def parse_policy(text: str) -> Comparison:
    """The comparison `text` means; raises `ValueError` naming what is supported when it is another expression."""
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(f"this expression is not yet supported; supported are {SUPPORTED}")
    field, other = match["field"], match["other"]
    if field not in FIELDS or (other is not None and other != field):
        raise ValueError(f"compares fields that are not supported; supported are {SUPPORTED}")
    literal = match["double"] if match["double"] is not None else match["single"]
    return Comparison(field=field, equal=match["operator"] == "==", literal=literal)
