"""Commands about proof: reading the ledger, taking it away, and verifying it with or without the installation."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from steersman.cli import EXIT_DONE, EXIT_ERROR
from steersman.cli.output import lines, report, show
from steersman.cli.session import connect
from steersman.client.steersman import Json, Steersman
from steersman.domain.errors import BadRequest, Conflict, Misconfigured, NotFound, NotVerified

COLUMNS = ("index", "at", "action", "actor", "object", "because")

EXPORT_BYTES_MAX = 4 * 1024**3
"""Largest export unpacked for verification: 4 GiB, about ten million entries."""


def ledger(arguments: argparse.Namespace) -> int:
    """`show`, `checkpoint`, `key`, `export` or `verify`."""
    if arguments.action == "verify" and arguments.path is not None:
        return _verify_export(arguments)
    steersman = connect(arguments)
    if arguments.action == "show":
        entries = steersman.ledger_entries(start=arguments.start, limit=arguments.limit)
        show(entries if arguments.output == "json" else [_flat(entry) for entry in entries], arguments.output, COLUMNS)
    elif arguments.action == "checkpoint":
        note = steersman.ledger_checkpoint()
        if arguments.output == "json":
            show({"checkpoint": note}, "json")
        else:
            print(note, end="" if note.endswith("\n") else "\n")
    elif arguments.action == "key":
        vkey = steersman.ledger_key()
        report({"vkey": vkey}, arguments.output, lambda: vkey)
    elif arguments.action == "export":
        if arguments.path is None:
            raise BadRequest("ledger export needs a file to write", next_step="`steersman ledger export log.tar`.")
        path = _fresh(Path(arguments.path))
        show({"written": str(steersman.ledger_export(path)), "bytes": path.stat().st_size}, arguments.output)
    else:
        answer = steersman.ledger_verify()
        kept = "next: steersman ledger export FILE, and verify it elsewhere with the key of `steersman ledger key`"
        said = {name: value for name, value in answer.items() if name != "checkpoint"}
        report(answer, arguments.output, lambda: "\n".join([*lines(said), kept]))
        return EXIT_DONE if answer.get("verified") else EXIT_ERROR
    return EXIT_DONE


def export(arguments: argparse.Namespace) -> int:
    """Everything an auditor takes away, in one directory."""
    directory = Path(arguments.directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Conflict(f"{directory} exists and is not an empty directory", next_step="Choose a new directory.")
    directory.mkdir(parents=True, exist_ok=True)
    steersman = connect(arguments)
    written = _write_models(steersman, directory)
    steersman.ledger_export(directory / "ledger.tar")
    (directory / "checkpoint").write_text(steersman.ledger_checkpoint(), encoding="utf-8")
    show({"directory": str(directory), "models": written, "ledger": "ledger.tar"}, arguments.output)
    return EXIT_DONE


def _write_models(steersman: Steersman, directory: Path) -> int:
    models = steersman.models()
    for model in models:
        reference = f"{model.get('workspace', 'default')}/{model.get('name') or model.get('model')}"
        found = {
            "status": steersman.status(reference),
            "history": steersman.history(reference),
            "versions": steersman.versions(reference),
            "releases": steersman.releases(reference),
            "incidents": steersman.incidents(reference),
            "trainings": steersman.trainings(reference),
        }
        path = directory / f"{reference.replace('/', '.')}.json"
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    return len(models)


def _verify_export(arguments: argparse.Namespace) -> int:
    try:
        from steersman.ledger.checkpoint import CheckpointError, VerifierKey
        from steersman.ledger.proofs import verify_export
    except ModuleNotFoundError as error:
        next_step = "Install it: `pip install 'steersman[server]'`, or only `cryptography`."
        raise Misconfigured(f"verifying needs the package {error.name}", next_step=next_step) from None
    earlier = None if arguments.earlier is None else _text(Path(arguments.earlier))
    try:
        vkey = arguments.vkey
        if vkey is not None and Path(vkey).is_file():
            vkey = _text(Path(vkey))
        key = None if vkey is None else VerifierKey.parse(vkey.strip())
    except CheckpointError as error:
        raise BadRequest(f"--vkey: {error}") from None
    with _directory(Path(arguments.path)) as directory:
        found = verify_export(directory, key, earlier)
    if not found.ok:
        raise NotVerified(found.because)
    answer = {"verified": True, "entries": found.entries, "because": found.because, "trusted_key": key is not None}
    show(answer, arguments.output)
    return EXIT_DONE


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[Path]:
    """The export as a directory; a tar file is unpacked aside, plain files only."""
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise NotFound(f"{path} does not exist", next_step="Make an export: `steersman ledger export log.tar`.")
    with tempfile.TemporaryDirectory(prefix="steersman-ledger-") as aside:
        try:
            with tarfile.open(path) as archive:
                members = [member for member in archive.getmembers() if member.isfile()]
                if sum(member.size for member in members) > EXPORT_BYTES_MAX:
                    raise BadRequest(f"{path} unpacks to more than {EXPORT_BYTES_MAX // 1024**3} GiB")
                for member in members:
                    _unpack(archive, member, Path(aside))
        except (tarfile.TarError, EOFError, OSError):
            raise NotVerified(f"{path} is not an export of a ledger") from None
        found = next(Path(aside).rglob("entries.jsonl"), None)
        if found is None:
            raise NotVerified(f"{path} holds no entries.jsonl")
        yield found.parent


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """Write one plain file below `into`; extraction filters are younger than the oldest Python this runs on."""
    name = PurePosixPath(member.name)
    content = archive.extractfile(member)
    if name.is_absolute() or ".." in name.parts or content is None:
        raise NotVerified(f"the archive holds {member.name}, which leads out of it")
    target = into / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _flat(entry: Json) -> Json:
    """An entry as one row: who by name, and what by kind, workspace and name."""
    body = entry.get("body")
    inner: Json = body if isinstance(body, dict) else entry
    actor, target = inner.get("actor"), inner.get("object")
    row = {**inner, "index": entry.get("index", inner.get("index"))}
    if isinstance(actor, dict):
        row["actor"] = actor.get("subject")
    if isinstance(target, dict):
        row["object"] = f"{target.get('kind')} {target.get('workspace')}/{target.get('name')}"
    return row


def _fresh(path: Path) -> Path:
    if path.exists():
        raise Conflict(f"{path} exists already", next_step="Choose another file; an export is never replaced.")
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise NotFound(f"{path} cannot be read") from None
