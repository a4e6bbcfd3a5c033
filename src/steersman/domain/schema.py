"""The JSON Schema of the documents, published from the very structs that decode them.

msgspec writes most of it; what differs is how unions are written (a step is a mapping with one key, not a tagged
object) and that durations and limits are text. Descriptions come from the docstrings, so an editor shows the same words
as the code.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT

from steersman.domain.decoding import encode
from steersman.domain.documents import API_VERSION, KINDS
from steersman.domain.durations import PATTERN
from steersman.domain.spec import Limit
from steersman.domain.spec.parts import Part

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: str) -> dict[str, Any]:
    """The schema of one kind of document (JSON Schema 2020-12); raises `KeyError` for an unknown kind."""
    struct = KINDS[kind]
    (_,), components = msgspec.json.schema_components((struct,), ref_template="#/$defs/{name}")
    classes = {cls.__name__: cls for cls in _descendants(Part)}
    definitions = {
        name: _definition(classes.get(name), schema) for name, schema in components.items() if name != "SetWeight"
    }
    definitions["Limit"] = {
        "type": "string",
        "description": inspect.cleandoc(Limit.__doc__ or ""),
        "pattern": r"^(<=|<)\s*[0-9]+(\.[0-9]+)?\s*(%|ms|s)?$",
    }
    top = definitions.pop(kind)
    top["properties"]["apiVersion"] = {"const": API_VERSION}
    top["properties"]["kind"] = {"const": kind}
    top["required"] = ["apiVersion", "kind", *top["required"]]
    return {"$schema": DIALECT, **top, "$defs": definitions}


def _descendants(root: type[Part]) -> list[type[Part]]:
    found = [root]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found


def _definition(cls: type[Part] | None, schema: Mapping[str, Any]) -> dict[str, Any]:
    """One struct's schema in the form people write, with the attributes' docstrings as descriptions."""
    definition: dict[str, Any] = _written(schema)
    if cls is None:
        return definition
    config = cls.__struct_config__
    properties = definition.get("properties", {})
    if config.tag_field in ("step", "strategy", "gate"):
        properties.pop(config.tag_field, None)
        definition["required"] = [name for name in definition.get("required", []) if name != config.tag_field]
    for field in msgspec.structs.fields(cls):
        if "default" in properties.get(field.encode_name, {}):
            properties[field.encode_name]["default"] = encode(field.default) if field.default is not NODEFAULT else {}
    for name, text in _attribute_texts(cls).items():
        written = next(field.encode_name for field in msgspec.structs.fields(cls) if field.name == name)
        if written in properties:
            properties[written] = {**properties[written], "description": text}
    return definition


def _written(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_written(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain = {key: _written(value) for key, value in schema.items() if key not in ("discriminator", "title")}
    if plain.get("format") == "duration":
        plain = {**{key: value for key, value in plain.items() if key != "format"}, "pattern": PATTERN}
    options = schema.get("anyOf")
    if isinstance(options, list) and "discriminator" in schema:
        field = schema["discriminator"]["propertyName"]
        mapping: Mapping[str, str] = schema["discriminator"]["mapping"]
        if field in ("step", "strategy"):
            plain["anyOf"] = [_one_key(tag, reference) for tag, reference in mapping.items()]
    return plain


def _one_key(tag: str, reference: str) -> dict[str, Any]:
    inner: dict[str, Any] = {"$ref": reference}
    if tag == "setWeight":
        inner = {"type": "integer", "minimum": 0, "maximum": 100, "description": "Share of the traffic in percent."}
    return {"type": "object", "properties": {tag: inner}, "required": [tag], "additionalProperties": False}


def _attribute_texts(cls: type[Part]) -> dict[str, str]:
    """The docstrings under the attributes, which Python does not keep: read from the source, where there is one."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:
        return {}
    (body,) = ast.parse(source).body
    texts: dict[str, str] = {}
    if isinstance(body, ast.ClassDef):
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                texts[statement.target.id] = " ".join(following.value.value.split())
    return texts
