"""Documents as YAML: read with care, because a document decides what runs in production.

Several documents may stand in one file. YAML's old traps are closed: `on`, `off`, `yes` and `no` are words (in YAML 1.1
`on:` is the key *true*), times stay text, a key may stand only once, aliases are refused (a document should say what it
means where a reader looks), and size and depth are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from steersman.domain.documents import encode_document, examine
from steersman.domain.errors import BadDocument, NotFound, Problem
from steersman.domain.spec import Dataset, Document, Model, Source

FILE_BYTES_MAX = 1024 * 1024
"""Largest file read: 1 MiB. A document of a hundred models is a tenth of it."""

DOCUMENTS_MAX = 200
"""Most documents in one file."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's scalars, unique keys and no aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own name and form

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                message = f"the key {key!r} stands twice in one mapping"
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_SCALARS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]{0,17})$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?|[0-9]+[eE][-+]?[0-9]{1,3})$",
        list("-+.0123456789"),
    ),
)
"""What an unquoted word may mean besides text: the core schema of YAML 1.2, with bounded digits."""

for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def load_yaml(text: str, *, source: str = "") -> list[Any]:
    """The plain data of every document in `text`; raises `BadDocument` where it is not YAML of the accepted kind."""
    if len(text.encode()) > FILE_BYTES_MAX:
        raise _unreadable(source, f"is larger than {FILE_BYTES_MAX // 1024} KiB")
    try:
        found = [data for data in yaml.load_all(text, Loader=_Loader) if data is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _unreadable(source, f"{where}{error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise _unreadable(source, f"not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise _unreadable(source, "is nested too deeply") from None
    if len(found) > DOCUMENTS_MAX:
        raise _unreadable(source, f"holds {len(found)} documents, at most {DOCUMENTS_MAX} may stand in one file")
    return found


def parse_yaml(text: str, *, source: str = "") -> list[Document]:
    """Every document in `text`; raises one `BadDocument` with the problems of all of them."""
    documents: list[Document] = []
    problems: list[Problem] = []
    found = load_yaml(text, source=source)
    if not found:
        raise _unreadable(source, "holds no document")
    for number, data in enumerate(found, start=1):
        faults, document = examine(data)
        prefix = f"document {number}: " if len(found) > 1 else ""
        problems += [
            Problem(path=prefix + fault.path if fault.path else "", message=_placed(prefix, fault)) for fault in faults
        ]
        if document is not None:
            documents.append(document)
    if problems:
        raise BadDocument(problems, source=source)
    return documents


def read_documents(paths: Sequence[str | Path]) -> list[Document]:
    """Every document of files and of directories (`*.yaml`, `*.yml`), in order of name.

    Relative directories and files named in a document count from the document's own file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
        elif path.is_file():
            files.append(path)
        else:
            raise NotFound(
                f"{path} does not exist", next_step="Check the path; `steersman init` writes a first document."
            )
    problems: list[Problem] = []
    documents: list[Document] = []
    for file in files:
        try:
            documents += [placed(document, file.parent) for document in parse_yaml(_text(file), source=str(file))]
        except BadDocument as error:
            problems += [
                Problem(path=f"{file}: {p.path}" if p.path else str(file), message=p.message) for p in error.problems
            ]
    if problems:
        raise BadDocument(problems)
    return documents


def placed(document: Document, directory: Path) -> Document:
    """The document with relative paths made absolute, counted from `directory`: the server runs somewhere else."""
    if isinstance(document, Model):
        train, tests = document.spec.train, document.spec.tests
        if train is not None:
            train = replace(train, source=_placed_source(train.source, directory))
        if tests is not None:
            tests = replace(tests, source=_placed_source(tests.source, directory))
        return replace(document, spec=replace(document.spec, train=train, tests=tests))
    if isinstance(document, Dataset) and "://" not in document.spec.uri:
        uri = str((directory / document.spec.uri).resolve())
        return replace(document, spec=replace(document.spec, uri=uri))
    return document


def _placed_source(source: Source, directory: Path) -> Source:
    if source.directory is None:
        return source
    return replace(source, directory=str((directory / source.directory).resolve()))


def dump_yaml(documents: Sequence[Document]) -> str:
    """The documents as YAML a person would write: defaults left out, fields in the order of the schema."""
    plain = [encode_document(document) for document in documents]
    return yaml.dump_all(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever any YAML reader, old or new, might take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _placed(prefix: str, fault: Problem) -> str:
    return fault.message if fault.path else prefix + fault.message


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise _unreadable(str(file), f"is larger than {FILE_BYTES_MAX // 1024} KiB")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _unreadable(str(file), "is not UTF-8 text") from None
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from None


def _unreadable(source: str, message: str) -> BadDocument:
    return BadDocument([Problem(path="", message=message)], source=source)
