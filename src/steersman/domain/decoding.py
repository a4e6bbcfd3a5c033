"""From plain data (what YAML and JSON hold) to the structs of `steersman.domain.spec`, and back.

msgspec's own decoder stops at the first fault and says `$.spec.environments[...]`; a person who wrote two hundred lines
wants every fault at once, at a path that reads like their file, and the field they probably meant. So the walk over
the structs is here, driven by the same annotations from which the JSON Schema is published; there is no second list of
fields. A place is a pair: the path of the part that holds a value, and the value's label in it. A fault of `setWeight`
in the third step reads `spec.….steps[2]: setWeight must be within 0..100, got 120`.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from steersman.domain.durations import format_duration, parse_duration
from steersman.domain.errors import Problem
from steersman.domain.spec.delivery import Limit, SetWeight
from steersman.domain.spec.parts import Part

PROBLEMS_MAX = 100
"""No more problems are listed for one document: beyond this it is the wrong file."""

_GATE_KEYS = {"policy": "policy", "maxDrop": "drop", "floor": "floor", "margin": "paired"}
"""The key that says which kind of gate it is, in order of precedence, and that kind's tag."""

_LIMIT = re.compile(r"(<=|<)\s*([0-9]+(?:\.[0-9]+)?)\s*(%|ms|s)?")


class _Field(typing.NamedTuple):
    name: str
    written: str
    type: object
    required: bool


@functools.cache
def _fields(struct: type[Part]) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(struct, include_extras=True)
    found = msgspec.structs.fields(struct)
    return tuple(_Field(f.name, f.encode_name, hints[f.name], f.required) for f in found)


class Invalid:
    """Stands where a value could not be decoded; its problem is already in the list."""


INVALID = Invalid()


def join(path: str, label: str) -> str:
    """`spec` and `gates` are `spec.gates`; an index follows without a dot."""
    return f"{path}.{label}" if path and not label.startswith("[") else path + label


def suggest(word: str, known: Sequence[str]) -> str:
    """`, did you mean "…"?` when something known is close, else nothing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f', did you mean "{by_lower[close[0]]}"?' if close else ""


def shown(value: object) -> str:
    """The value as the person wrote it, shortened; containers by kind only."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool | int | float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Decoding:
    """One walk over one document; collects problems and goes on."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def refuse(self, path: str, message: str) -> Invalid:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(path=path, message=message))
        return INVALID

    def value(self, expected: object, value: object, path: str, label: str) -> object:
        """Decode `value` as the annotation `expected`; INVALID when it does not fit."""
        metas: list[msgspec.Meta] = []
        while typing.get_origin(expected) is typing.Annotated:
            inner, *extras = typing.get_args(expected)
            metas.extend(extra for extra in extras if isinstance(extra, msgspec.Meta))
            expected = inner
        origin = typing.get_origin(expected)
        if origin in (typing.Union, types.UnionType):
            options = typing.get_args(expected)
            if types.NoneType in options:
                if value is None:
                    return None
                options = tuple(option for option in options if option is not types.NoneType)
            if len(options) > 1:
                return self._union(options, value, path, label)
            return self._bounded(self.value(options[0], value, path, label), metas, value, path, label)
        if origin is tuple:
            return self._bounded(
                self._items(typing.get_args(expected)[0], value, path, label), metas, value, path, label
            )
        if origin is dict:
            return self._mapping(typing.get_args(expected), value, path, label)
        return self._bounded(self._leaf(expected, value, path, label), metas, value, path, label)

    def struct(self, struct: type[Part], value: object, path: str) -> object:
        """Decode a mapping as `struct`, whose own path is `path`."""
        if isinstance(value, struct):
            value = encode(value)
        if not isinstance(value, Mapping):
            return self.refuse(path, f"must be a mapping, got {shown(value)}")
        fields = _fields(struct)
        known = [field.written for field in fields]
        for key in value:
            if key not in known:
                self.refuse(path, f"unknown field {shown(key)}{suggest(str(key), known)}")
        decoded: dict[str, object] = {}
        for field in fields:
            if field.written in value:
                given = value[field.written]
                if given is None and not _accepts_none(field.type):
                    self.refuse(path, f"{field.written} must not be empty; leave the line out for its default")
                    decoded[field.name] = INVALID
                else:
                    decoded[field.name] = self.value(field.type, given, path, field.written)
            elif field.required:
                decoded[field.name] = self.refuse(path, f"{field.written} is required")
        if any(isinstance(part, Invalid) for part in decoded.values()):
            return INVALID
        return struct(**decoded)

    def _leaf(self, expected: object, value: object, path: str, label: str) -> object:
        if isinstance(expected, type) and issubclass(expected, Part):
            if expected is Limit:
                return self._limit(value, path, label)
            return self.struct(expected, value, join(path, label))
        if isinstance(expected, type) and issubclass(expected, StrEnum):
            if isinstance(value, str) and value in {str(member) for member in expected}:
                return expected(value)
            words = [str(member) for member in expected]
            return self.refuse(
                path, f"{label} must be one of {', '.join(words)}, got {shown(value)}{suggest(str(value), words)}"
            )
        if expected is str:
            return value if isinstance(value, str) else self.refuse(path, f"{label} must be text, got {shown(value)}")
        if expected is bool:
            return (
                value
                if isinstance(value, bool)
                else self.refuse(path, f"{label} must be true or false, got {shown(value)}")
            )
        if expected is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            return self.refuse(path, f"{label} must be a whole number, got {shown(value)}")
        if expected is float:
            return self._number(value, path, label)
        if expected is timedelta:
            return self._duration(value, path, label)
        if expected is datetime:
            return self._moment(value, path, label)
        raise TypeError(f"no decoding for {expected!r}")

    def _number(self, value: object, path: str, label: str) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
        return self.refuse(path, f"{label} must be a finite number, got {shown(value)}")

    def _duration(self, value: object, path: str, label: str) -> object:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value if isinstance(value, str) else str(value))
        except ValueError as error:
            return self.refuse(path, f"{label} {error}")

    def _moment(self, value: object, path: str, label: str) -> object:
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        return self.refuse(path, f"{label} must be a time such as 2026-03-01T00:00:00Z, got {shown(value)}")

    def _limit(self, value: object, path: str, label: str) -> object:
        if isinstance(value, Limit):
            return value
        match = _LIMIT.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= 40 else None
        if match is None:
            return self.refuse(path, f'{label} must be a bound such as "<= 0.1%" or "<= 250ms", got {shown(value)}')
        operator, number, unit = match.groups()
        amount = float(number)
        if unit in ("ms", "s"):
            return Limit(operator=operator, value=amount * (1000 if unit == "s" else 1), unit="ms")
        return Limit(operator=operator, value=amount / 100 if unit == "%" else amount, unit="fraction")

    def _items(self, item: object, value: object, path: str, label: str) -> object:
        if not isinstance(value, list | tuple):
            return self.refuse(path, f"{label} must be a list, got {shown(value)}")
        decoded = tuple(self.value(item, given, path, f"{label}[{index}]") for index, given in enumerate(value))
        return INVALID if any(isinstance(part, Invalid) for part in decoded) else decoded

    def _mapping(self, types_of: tuple[object, ...], value: object, path: str, label: str) -> object:
        if not isinstance(value, Mapping):
            return self.refuse(path, f"{label} must be a mapping, got {shown(value)}")
        key_type, value_type = types_of
        decoded: dict[object, object] = {}
        for key, given in value.items():
            inside = join(path, label)
            name = self.value(key_type, key, inside, f"the name {shown(key)}")
            decoded[name] = self.value(value_type, given, inside, str(key))
        return INVALID if any(isinstance(part, Invalid) for pair in decoded.items() for part in pair) else decoded

    def _union(self, options: tuple[type[Part], ...], value: object, path: str, label: str) -> object:
        """The unions of the documents, each in its written form: one key, a `kind`, or the keys a gate has."""
        form = options[0].__struct_config__.tag_field
        tags = {str(option.__struct_config__.tag): option for option in options}
        place = join(path, label)
        if isinstance(value, options):
            value = encode(value)
        if not isinstance(value, Mapping):
            return self.refuse(place, f"must be a mapping, got {shown(value)}")
        if form == "gate":
            tag = next((tag for key, tag in _GATE_KEYS.items() if key in value), None)
            if tag is None:
                return self.refuse(place, "a gate needs one of margin, maxDrop, floor or policy")
            return self.struct(tags[tag], value, place)
        if form == "kind":
            tag = value.get("kind")
            if not isinstance(tag, str) or tag not in tags:
                words = ", ".join(tags)
                return self.refuse(
                    place, f"kind must be one of {words}, got {shown(tag)}{suggest(str(tag), list(tags))}"
                )
            return self.struct(tags[tag], {key: given for key, given in value.items() if key != "kind"}, place)
        return self._one_key(form or "", tags, value, place)

    def _one_key(self, form: str, tags: Mapping[str, type[Part]], value: Mapping[str, object], place: str) -> object:
        words = ", ".join(tags)
        if len(value) != 1:
            return self.refuse(place, f"a {form} has exactly one key, one of {words}; got {len(value)}")
        ((key, given),) = value.items()
        if key not in tags:
            return self.refuse(
                place, f"unknown {form} {shown(key)}{suggest(str(key), list(tags)) or f'; one of {words}'}"
            )
        option = tags[key]
        if option is SetWeight:
            weight = self.value(_fields(SetWeight)[0].type, given, place, "setWeight")
            return INVALID if isinstance(weight, Invalid) else SetWeight(weight_pct=typing.cast("int", weight))
        return self.struct(option, {} if given is None else given, join(place, str(key)))

    def _bounded(self, decoded: object, metas: list[msgspec.Meta], given: object, path: str, label: str) -> object:
        if isinstance(decoded, Invalid):
            return INVALID
        for meta in metas:
            fault = _fault(decoded, meta)
            if fault:
                return self.refuse(path, f"{label} {fault}, got {shown(given)}")
        return decoded


def _accepts_none(expected: object) -> bool:
    while typing.get_origin(expected) is typing.Annotated:
        expected = typing.get_args(expected)[0]
    return types.NoneType in typing.get_args(expected)


def _fault(value: object, meta: msgspec.Meta) -> str:
    """What a constraint of the annotation says against the value; empty when nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = meta.ge, meta.le
        if low is not None and high is not None and not low <= value <= high:
            return f"must be within {low:g}..{high:g}"
        if (low is not None and value < low) or (meta.gt is not None and value <= meta.gt):
            return f"must be at least {low:g}" if low is not None else f"must be greater than {meta.gt:g}"
        if high is not None and value > high:
            return f"must be at most {high:g}"
    if isinstance(value, timedelta) and meta.extra and meta.extra.get("positive") and value <= timedelta(0):
        return "must be longer than 0s"
    if isinstance(value, str | tuple):
        noun = "characters" if isinstance(value, str) else "entries"
        if meta.min_length is not None and len(value) < meta.min_length:
            return f"must have at least {meta.min_length} {noun}"
        if meta.max_length is not None and len(value) > meta.max_length:
            return f"must have at most {meta.max_length} {noun}"
    if isinstance(value, str) and meta.pattern is not None and not re.search(meta.pattern, value):
        return f"must match {meta.pattern}"
    return ""


def encode(part: object, *, defaults: bool = False) -> object:
    """The plain data of a document or a part of it, as a person would write it; the inverse of decoding.

    Fields at their default are left out unless `defaults`; `apiVersion` and `kind` always stay.
    """
    if isinstance(part, Limit):
        number = part.value * 100 if part.unit == "fraction" else part.value
        return f"{part.operator} {number:.12g}{'%' if part.unit == 'fraction' else 'ms'}"
    if isinstance(part, SetWeight):
        return {"setWeight": part.weight_pct}
    if isinstance(part, Part):
        written: dict[str, object] = {}
        for field in msgspec.structs.fields(type(part)):
            given = getattr(part, field.name)
            if not defaults and field.name not in ("api_version", "kind") and _is_default(field, given):
                continue
            if given is not None:
                written[field.encode_name] = encode(given, defaults=defaults)
        config = type(part).__struct_config__
        if config.tag_field in ("step", "strategy"):
            return {str(config.tag): written}
        return {"kind": config.tag, **written} if config.tag_field == "kind" else written
    if isinstance(part, StrEnum):
        return part.value
    if isinstance(part, timedelta):
        return format_duration(part)
    if isinstance(part, datetime):
        return part.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(part, Mapping):
        return {str(key): encode(value, defaults=defaults) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [encode(item, defaults=defaults) for item in part]
    return part


def _is_default(field: msgspec.structs.FieldInfo, value: object) -> bool:
    if field.default_factory is not msgspec.NODEFAULT:
        return bool(value == field.default_factory())
    return field.default is not msgspec.NODEFAULT and bool(value == field.default)
