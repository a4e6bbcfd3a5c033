"""What a version's own tree says of how it wants to be called: MLflow's `MLmodel`, our `version.yaml`, an input example.

The example is the best warm-up there is: the model's own data, so a version that fails on it would fail on its callers.
All of it is written by whoever made the version, so every file has a bound and is parsed as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from steersman.dataplane.configuration import Column
from steersman.dataplane.protocol import Tensor

EXAMPLE_BYTES_MAX = 1024**2
"""A few hundred rows; a longer example says nothing more about whether the model answers."""

EXAMPLE_ROWS_MAX = 32

_FILE_BYTES_MAX = 4 * 1024**2
"""Of an `MLmodel`; an input schema of 10,000 columns takes 1 MB."""

_DATATYPES: dict[type, str] = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}


class UnreadableExampleError(Exception):
    """The example is of a kind no request here can carry, too large, or broken; the text says which."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`predict_fn`: the method pyfunc calls. `model_class`: the class the flavour restores. `example`: a file's path."""

    predict_fn: str = "predict"
    model_class: str = ""
    example: str | None = None


def manifest(root: Path) -> Manifest:
    """What the tree's `MLmodel`, or else its `version.yaml`, says; defaults where there is neither or it is unreadable."""
    document = _yaml(root / "MLmodel")
    if document is None:
        example = (_yaml(root / "version.yaml") or {}).get("example")
        return Manifest(example=example if isinstance(example, str) else None)
    flavors = {name: one for name, one in _mapping(document.get("flavors")).items() if isinstance(one, dict)}
    predict_fn = flavors.get("python_function", {}).get("predict_fn")
    classes = (one["model_class"] for one in flavors.values() if isinstance(one.get("model_class"), str))
    info = _mapping(document.get("saved_input_example_info"))
    example = info.get("serving_input_path") or info.get("artifact_path")
    return Manifest(
        predict_fn=predict_fn if isinstance(predict_fn, str) else "predict",
        model_class=next(classes, ""),
        example=example if isinstance(example, str) else None,
    )


def example(root: Path, name: str, signature: Sequence[Column]) -> list[Tensor]:
    """The first rows of an example as a request's inputs. Raises UnreadableExampleError.

    Columns that are not in the signature are left out, as MLflow leaves them out. Read are MLflow's `dataframe_split`,
    `dataframe_records`, `inputs` and `instances`, a split or a list without such a word around it, and columns by name.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise UnreadableExampleError(f"{name}: no such file in the version")
    if path.stat().st_size > EXAMPLE_BYTES_MAX:
        raise UnreadableExampleError(f"{name}: larger than {EXAMPLE_BYTES_MAX >> 10} kB")
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableExampleError(f"{name}: {error}") from None
    try:
        tensors = _tensors(content)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UnreadableExampleError(f"{name}: {type(error).__name__}: {error}") from None
    types = {column.name: column.type for column in signature}
    if any(tensor.name in types for tensor in tensors):
        tensors = [_typed(tensor, types[tensor.name]) for tensor in tensors if tensor.name in types]
    return tensors


def _typed(tensor: Tensor, wanted: str) -> Tensor:
    """A column of whole numbers that a frame with gaps has written as 3.0 is meant as 3."""
    if "INT" not in wanted or tensor.datatype != "FP64":
        return tensor
    data = [int(value) if isinstance(value, float) and value.is_integer() else value for value in tensor.data]
    return Tensor(tensor.name, _datatype(data), tensor.shape, data)


def _tensors(content: Any) -> list[Tensor]:
    if isinstance(content, dict):
        for word in ("dataframe_split", "dataframe_records", "inputs", "instances"):
            if word in content:
                return _tensors(content[word])
        if "columns" in content and "data" in content:
            rows = content["data"][:EXAMPLE_ROWS_MAX]
            return [_column(str(name), [row[at] for row in rows]) for at, name in enumerate(content["columns"])]
        return [_column(str(name), values if type(values) is list else [values]) for name, values in content.items()]
    if isinstance(content, list) and content and isinstance(content[0], dict):
        rows = content[:EXAMPLE_ROWS_MAX]
        return [_column(str(name), [row[name] for row in rows]) for name in rows[0]]
    if isinstance(content, list) and content and isinstance(content[0], list):
        rows = content[:EXAMPLE_ROWS_MAX]
        flat = [value for row in rows for value in row]
        if len({len(row) for row in rows}) == 1:
            return [Tensor("rows", _datatype(flat), [len(rows), len(rows[0])], flat)]
    raise ValueError("neither rows nor columns")


def _column(name: str, values: list[Any]) -> Tensor:
    values = [value[0] if type(value) is list and len(value) == 1 else value for value in values[:EXAMPLE_ROWS_MAX]]
    return Tensor(name, _datatype(values), [len(values)], values)


def _datatype(values: Sequence[Any]) -> str:
    """The first value that says one: in JSON, 1 may stand for 1.0, so a single fraction makes all of them fractions."""
    kinds = {type(value) for value in values if value is not None}
    unknown = kinds - _DATATYPES.keys()
    if unknown:
        raise ValueError(f"a value is a {min(kind.__name__ for kind in unknown)}")
    if kinds <= {int, float}:
        return "INT64" if kinds == {int} else "FP64"
    if len(kinds) > 1:
        raise ValueError("a column mixes kinds of values")
    return _DATATYPES[kinds.pop()]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _yaml(path: Path) -> dict[str, Any] | None:
    if not path.is_file() or path.stat().st_size > _FILE_BYTES_MAX:
        return None
    import yaml  # only for trees that have such a file

    try:
        content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
