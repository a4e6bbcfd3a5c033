"""What a version says it needs of its surroundings: `requirements.txt` and `python_env.yaml` in its tree, as MLflow writes.

They are read with the suspicion the rest of a version gets. Only names, versions, markers and hashes are taken; a line
that would choose where packages come from (an option, an address, a path) is refused by name, because that is the
installation's choice. Only formats that run code or rest on a library's version have needs at all. Of a data-only skops
file only the libraries that load it count: what may install packages may run code, and registering data must not.
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata

import msgspec
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from steersman.dataplane.formats import CODE_FORMATS
from steersman.ports import ReplicaSpec, TargetError

REQUIREMENTS_FILE = "requirements.txt"
PYTHON_FILE = "python_env.yaml"

FILE_BYTES_MAX = 256 * 1024
"""A full lock with hashes of a large project takes about half of it."""

PYTHON_MIN = (3, 11)
"""What a worker's own code needs."""

SKOPS_LIBRARIES = frozenset({"scikit-learn", "skops", "numpy", "scipy", "joblib", "threadpoolctl", "pandas"})
"""All that loading a skops file imports; it holds listed types of these only."""

WORKER_LIBRARIES = frozenset({"msgspec", "uvloop", "httptools", "numpy", "psutil"})
"""What a worker imports; the versions are those this installation's own metadata asks for."""

_LOADED_BY: dict[str, tuple[str, ...]] = {"pyfunc": ("mlflow", "pandas"), "pickle": ("joblib",), "skops": ("skops",)}
"""What a format's loader imports beside the model's own libraries."""

_HASHES = re.compile(r"(?:\s+--hash=[a-z0-9]+:[0-9a-f]+)+\Z")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_MINOR = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?\Z")


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Lines as uv reads them, normalised and sorted; `python` as `3.12`, None where any will do."""

    requirements: tuple[str, ...]
    python: str | None = None

    @property
    def digest(self) -> str:
        """The environment's name: SHA-256 of these needs, the worker's, the interpreter and the platform."""
        parts = (
            self.requirements,
            self.python,
            worker_requirements(),
            interpreter(self.python),
            sysconfig.get_platform(),
        )
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def needs_of(replica: ReplicaSpec) -> Needs | None:
    """What the version needs, None where its format or its tree names nothing. Raises TargetError for a refused line."""
    if replica.format not in _LOADED_BY or (replica.format in CODE_FORMATS and not replica.code_allowed):
        return None  # the second: its worker will refuse to load it, and says so better
    path = replica.artifact / REQUIREMENTS_FILE
    if not path.is_file() or path.is_symlink():
        return None
    where = f"{REQUIREMENTS_FILE} of {replica.model} version {replica.version}"
    if path.stat().st_size > FILE_BYTES_MAX:
        raise TargetError(f"{where} is over {FILE_BYTES_MAX // 1024} kB; register the version with a shorter one")
    found = dict(_read(path.read_text("utf-8", "replace"), where))
    if replica.format == "skops":
        found = {name: line for name, line in found.items() if name in SKOPS_LIBRARIES}
    if replica.format != "pyfunc":
        found.pop("mlflow", None)
        found.pop("mlflow-skinny", None)
    if not found:
        return None
    for name in _loaders(replica):
        if not (name == "mlflow" and "mlflow-skinny" in found):
            found.setdefault(name, name)
    python = _python(replica) if replica.format in CODE_FORMATS else None
    return Needs(requirements=tuple(sorted(found.values())), python=python)


def _loaders(replica: ReplicaSpec) -> tuple[str, ...]:
    strings = any(column.type == "BYTES" for column in replica.signature)
    return (*_LOADED_BY[replica.format], *(("pandas",) if strings else ()))


def _read(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Key and normalised line of each requirement; the key is the name, with its marker where one name has several."""
    seen: set[str] = set()
    for raw in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        line = _COMMENT.sub("", raw).strip()
        if not line:
            continue
        hashes = found[0] if (found := _HASHES.search(line)) else ""
        requirement = _requirement(line.removesuffix(hashes), where)
        name = canonicalize_name(requirement.name)
        requirement.name = name
        key = name if name not in seen else f"{name};{requirement.marker}"
        seen.add(name)
        yield key, str(requirement) + " ".join(["", *sorted(hashes.split())])


def _requirement(line: str, where: str) -> Requirement:
    next_step = (
        "log the model with requirements of the form name==version; the installation sets the index (UV_* variables)"
    )
    if line.startswith("-"):
        raise TargetError(f"{where}: the line {line[:120]!r} is refused: a version may not set options; {next_step}")
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        raise TargetError(
            f"{where}: the line {line[:120]!r} is refused: it is no name and version; {next_step}"
        ) from None
    if requirement.url is not None:
        raise TargetError(f"{where}: the line {line[:120]!r} is refused: it names an address; {next_step}")
    return requirement


def _python(replica: ReplicaSpec) -> str | None:
    """The Python the version's code was written for, from `python_env.yaml`: pickled functions hold its bytecode."""
    path = replica.artifact / PYTHON_FILE
    if not path.is_file() or path.is_symlink() or path.stat().st_size > FILE_BYTES_MAX:
        return None
    where = f"{PYTHON_FILE} of {replica.model} version {replica.version}"
    try:
        content = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise TargetError(f"{where} is not YAML: {error}"[:300]) from error
    named = str(content.get("python", "")) if isinstance(content, dict) else ""
    if not named:
        return None
    found = _MINOR.match(named)
    if found is None or (int(found[1]), int(found[2])) < PYTHON_MIN:
        raise TargetError(
            f"{where} names Python {named[:40]}; a worker needs {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or later: "
            "train and log the version with a later Python"
        )
    return f"{found[1]}.{found[2]}"


def worker_requirements() -> tuple[str, ...]:
    """What a worker imports, as this installation's own metadata asks for it."""
    found = set()
    for line in metadata.requires("steersman") or []:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) in WORKER_LIBRARIES:
            found.add(f"{canonicalize_name(requirement.name)}{requirement.specifier}")
    return tuple(sorted(found))


def interpreter(python: str | None) -> str:
    """What `uv venv` is told: the interpreter below this one, or another minor version that it is to find."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python is not None and python != ours:
        return python
    return str(getattr(sys, "_base_executable", sys.executable))


def unsatisfied(needs: Needs) -> str | None:
    """The first thing this installation's environment lacks, in words; None where it has everything."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if needs.python not in (None, ours):
        return f"Python {needs.python}, here is {ours}"
    for line in needs.requirements:
        if (lacking := _lacking(Requirement(_HASHES.sub("", line)), {})) is not None:
            return lacking
    return None


def _lacking(requirement: Requirement, extra: dict[str, str], depth: int = 0) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate(extra):
        return None
    try:
        present = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name}{requirement.specifier}, which is not installed here"
    if not requirement.specifier.contains(present, prereleases=True):
        return f"{requirement.name}{requirement.specifier}, here is {present}"
    for name in sorted(requirement.extras):
        for line in metadata.requires(requirement.name) or [] if depth < _EXTRAS_DEPTH_MAX else []:
            part = Requirement(line)
            wanted = part.marker is not None and "extra" in str(part.marker)
            if wanted and (lacking := _lacking(part, {"extra": name}, depth + 1)) is not None:
                return lacking
    return None


_EXTRAS_DEPTH_MAX = 4
"""Extras that ask for extras; a package may ask for itself."""
