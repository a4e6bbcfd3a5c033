"""What kind of model a tree of files holds, told from its content.

A model file is hostile until shown otherwise. Data-only formats (LightGBM's text, XGBoost's JSON and UBJSON, ONNX, skops
with listed types) describe a computation and cannot run code of their own; pickle and pyfunc *are* code. A version may
load freely only if nothing in its tree carries code that its loader would run: a name or a line in a YAML file is a claim,
so the bytes decide. Used at registration, before a version is judged, and again by the worker before it loads.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import msgspec

Format = Literal["lightgbm", "xgboost", "onnx", "skops", "pyfunc", "pickle"]

CODE_FORMATS: frozenset[str] = frozenset({"pyfunc", "pickle"})
"""Formats whose loading runs code from the tree: refused unless a setting of the installation names the model."""

_HEAD_BYTES = 4096
_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill", ".pt", ".pth"})


class UnknownFormatError(Exception):
    """The bytes are of no format a worker loads."""


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """What a tree holds. `code` lists the files (with a reason) that carry code the format's loader would run."""

    format: Format
    file: str
    code: tuple[str, ...] = ()

    @property
    def code_bearing(self) -> bool:
        return self.format in CODE_FORMATS or bool(self.code)


def sniff(path: Path) -> Format | None:
    """The format of one model file by its first bytes; None when it is no model file."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith((b"tree\n", b"tree\r\n")) and b"version=" in head:
        return "lightgbm"
    if head.startswith(b"PK\x03\x04") and _is_skops(path):
        return "skops"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 2:
        return "pickle"
    if head.startswith((b"{", b"\xef\xbb\xbf{")) and b'"learner"' in _ends(path, head):
        return "xgboost"
    if head[:1] == b"{" and (b"learner" in head):
        return "xgboost"
    if path.suffix == ".onnx" and head[:1] == b"\x08":
        return "onnx"
    if path.suffix in _PICKLE_SUFFIXES:
        return "pickle"
    return None


def _ends(path: Path, head: bytes) -> bytes:
    """The first and last few kB: XGBoost writes its keys sorted, so `learner` stands first, but need not."""
    size = path.stat().st_size
    if size <= _HEAD_BYTES:
        return head
    with path.open("rb") as file:
        file.seek(max(0, size - _HEAD_BYTES))
        return head + file.read()


def _is_skops(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "schema.json" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def classify(root: Path, *, format_claimed: str | None = None, file_claimed: str | None = None) -> Classification:
    """What the tree holds; with a claim (from `version.yaml` or `MLmodel`), whether the bytes bear it out.

    Raises UnknownFormatError when nothing loadable is found, or when the claimed file is of another format. `pyfunc` is
    never found by content: it must be claimed, and its code is every pickle and Python file of the tree.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    if format_claimed == "pyfunc":
        code = tuple(_code_of(path, root) for path in files if _carries_code(path))
        return Classification(format="pyfunc", file=file_claimed or ".", code=code)
    if file_claimed is not None:
        target = (root / file_claimed).resolve()
        if not target.is_relative_to(root.resolve()) or not target.is_file():
            raise UnknownFormatError(f"{file_claimed}: no such file in the version")
        found = sniff(target)
        if found is None or (format_claimed is not None and found != format_claimed):
            raise UnknownFormatError(
                f"{file_claimed}: claimed to be {format_claimed or 'a model'}, but its bytes are {found or 'not one'}"
            )
        return Classification(format=found, file=file_claimed)
    candidates = [(path, found) for path in files if (found := sniff(path)) is not None]
    if format_claimed is not None:
        candidates = [(path, found) for path, found in candidates if found == format_claimed]
    data_only = [(path, found) for path, found in candidates if found not in CODE_FORMATS]
    for path, found in data_only or candidates:
        return Classification(format=found, file=path.relative_to(root).as_posix())
    raise UnknownFormatError(
        "no file of a known model format (LightGBM text, XGBoost JSON or UBJ, ONNX, skops, pickle); "
        "name the file in version.yaml"
    )


def _carries_code(path: Path) -> bool:
    return path.suffix == ".py" or sniff(path) == "pickle"


def _code_of(path: Path, root: Path) -> str:
    kind = "Python source" if path.suffix == ".py" else "pickle"
    return f"{path.relative_to(root).as_posix()}: {kind}"
