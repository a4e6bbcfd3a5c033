"""What leaves the house: receipts for one entry, and exports of the whole log, both verifiable offline.

A *receipt* (C2SP tlog-proof) is about a kilobyte of text that shows one entry, an approval say, to be in the log. An
*export* is a directory of plain files: ``entries.jsonl`` (the exact body of one entry a line), ``leaves.txt`` (their
leaf hashes, so that a damaged entry can be named), ``checkpoint`` and ``vkey``.

The key inside an export shows that the export agrees with itself, no more: whoever rewrites the entries can sign them
anew with a key of their own. So a verifier is given the key he already trusts, and best an older checkpoint he kept,
which catches even an insider who holds the signing key. ``python -m steersman.ledger.proofs DIR --vkey KEY
--earlier CHECKPOINT`` does that without a database and without the rest of Steersman.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steersman.ledger.checkpoint import (
    NOTE_BYTES_MAX,
    Checkpoint,
    CheckpointError,
    VerifierKey,
    decode_base64,
    parse_checkpoint,
    verify_checkpoint,
)
from steersman.ledger.entry import BODY_BYTES_MAX, EntryError, parse_entry
from steersman.ledger.merkle import (
    HASH_BYTES,
    Frontier,
    Leaves,
    ProofError,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_inclusion,
)

PROOF_HEADER = "c2sp.org/tlog-proof@v1"

ENTRIES, LEAVES, CHECKPOINT, VKEY = "entries.jsonl", "leaves.txt", "checkpoint", "vkey"

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An entry's place in the log and the way from it to a signed root."""

    index: int
    proof: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def text(self) -> str:
        lines = [PROOF_HEADER]
        if self.extra is not None:
            lines.append("extra " + base64.b64encode(self.extra).decode())
        lines.append(f"index {self.index}")
        lines.extend(base64.b64encode(node).decode() for node in self.proof)
        return "\n".join(lines) + "\n\n" + self.checkpoint


def make_receipt(leaves: Leaves, index: int, checkpoint: str, *, body: bytes | None = None) -> str:
    """The receipt of entry ``index`` against a signed checkpoint; with ``body`` it carries the entry itself along."""
    size = parse_checkpoint(checkpoint).size
    proof = inclusion_proof(leaves, index, size)
    return Receipt(index=index, proof=proof, checkpoint=checkpoint, extra=body).text()


def parse_receipt(text: str) -> Receipt:
    """Read a receipt without verifying it. Raises ``ProofError`` when malformed."""
    head, separator, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != PROOF_HEADER or len(text) > 4 * BODY_BYTES_MAX:
        raise ProofError(f"a receipt begins with {PROOF_HEADER} and ends with a checkpoint after an empty line")
    extra = None
    try:
        if len(lines) > 1 and lines[1].startswith("extra "):
            extra = decode_base64(lines.pop(1).removeprefix("extra "), "the receipt's extra data")
        match = _INDEX.fullmatch(lines[1]) if len(lines) > 1 else None
        if match is None:
            raise ProofError("the receipt lacks its line 'index <number>'")
        proof = tuple(decode_base64(line, "a hash of the receipt") for line in lines[2:])
    except CheckpointError as error:
        raise ProofError(str(error)) from error
    return Receipt(index=int(match[1]), proof=proof, checkpoint=checkpoint, extra=extra)


def verify_receipt(text: str, body: bytes, key: VerifierKey) -> Checkpoint:
    """Raise ``ProofError`` or ``CheckpointError`` unless the receipt shows ``body`` in the log that ``key`` signs."""
    receipt = parse_receipt(text)
    checkpoint = verify_checkpoint(receipt.checkpoint, key)
    verify_inclusion(
        leaf=leaf_hash(body),
        index=receipt.index,
        size=checkpoint.size,
        proof=receipt.proof,
        root=checkpoint.root,
    )
    return checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verification found. ``because`` names the first thing wrong, or what was shown."""

    ok: bool
    entries: int
    because: str
    origin: str | None = None
    root: str | None = None
    wrong_index: int | None = None


class _Wrong(Exception):
    """The first thing wrong, with the index of the entry where there is one."""

    def __init__(self, because: str, index: int | None = None) -> None:
        super().__init__(because)
        self.because = because
        self.index = index


def write_export(directory: Path, bodies: Iterable[bytes], checkpoint: str, key: VerifierKey) -> int:
    """Write an export into an empty or new directory; returns the number of entries.

    ``bodies`` are the exact bytes in the order of the log, as many as the checkpoint's size says (``ValueError``
    otherwise, so that no export is made that its own checkpoint contradicts).
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty: give a new directory for the export")
    count = 0
    frontier = Frontier()
    with (directory / ENTRIES).open("wb") as entries, (directory / LEAVES).open("w", encoding="ascii") as leaves:
        for body in bodies:
            leaf = leaf_hash(body)
            frontier = frontier.append(leaf)
            entries.write(body + b"\n")
            leaves.write(leaf.hex() + "\n")
            count += 1
    signed = verify_checkpoint(checkpoint, key)
    if (signed.size, signed.root) != (count, frontier.root()):
        raise ValueError(f"the checkpoint is of {signed.size} entries with another root than the {count} given")
    (directory / CHECKPOINT).write_text(checkpoint, encoding="utf-8")
    (directory / VKEY).write_text(f"{key}\n", encoding="utf-8")
    return count


def verify_export(directory: Path, key: VerifierKey | None = None, earlier: str | None = None) -> Verification:
    """Verify an export offline: signature, every entry, count, root, and an older checkpoint where one is given.

    ``key`` is the log's key from elsewhere; without it the export's own key is used, and the result says so. Never
    raises on what it finds in the directory; memory stays below 100 bytes an entry.
    """
    entries = 0
    checkpoint: Checkpoint | None = None
    try:
        trusted = key or VerifierKey.parse(_read_text(directory, VKEY))
        checkpoint = verify_checkpoint(_read_text(directory, CHECKPOINT), trusted)
        before = verify_checkpoint(earlier, trusted) if earlier is not None else None
        leaves = _read_entries(directory / ENTRIES)
        entries = len(leaves)
        _compare(leaves, checkpoint, before, _read_leaves(directory / LEAVES))
    except _Wrong as wrong:
        return Verification(ok=False, entries=entries, because=wrong.because, wrong_index=wrong.index)
    except (CheckpointError, OSError, UnicodeDecodeError) as error:
        return Verification(ok=False, entries=entries, because=str(error))
    shown = f"{entries} entries, root and signature of {trusted.name} agree"
    if before is not None:
        shown += f", and the history extends the earlier checkpoint of {before.size} entries"
    if key is None:
        shown += "; the key came with the export, compare it with the one you were given"
    return Verification(ok=True, entries=entries, because=shown, origin=checkpoint.origin, root=checkpoint.root.hex())


def _read_text(directory: Path, name: str) -> str:
    path = directory / name
    if not path.is_file():
        raise _Wrong(f"the export has no file {name}")
    with path.open("rb") as file:
        raw = file.read(NOTE_BYTES_MAX + 1)
    if len(raw) > NOTE_BYTES_MAX:
        raise _Wrong(f"the file {name} is larger than {NOTE_BYTES_MAX} bytes")
    return raw.decode("utf-8")


def _read_entries(path: Path) -> list[bytes]:
    """Leaf hashes of the export's entries; raises ``_Wrong`` at the first line that is no entry."""
    if not path.is_file():
        raise _Wrong(f"the export has no file {path.name}")
    leaves: list[bytes] = []
    first_seen: dict[str, int] = {}
    with path.open("rb") as file:
        while line := file.readline(BODY_BYTES_MAX + 2):
            index = len(leaves)
            if not line.endswith(b"\n"):
                raise _Wrong(f"entry {index} is cut off or larger than {BODY_BYTES_MAX} bytes", index)
            try:
                entry = parse_entry(line[:-1])
            except EntryError as error:
                raise _Wrong(f"entry {index}: {error}", index) from error
            if entry.id in first_seen:
                raise _Wrong(f"entry {index} repeats the id of entry {first_seen[entry.id]}", index)
            first_seen[entry.id] = index
            leaves.append(leaf_hash(line[:-1]))
    return leaves


def _read_leaves(path: Path) -> list[bytes] | None:
    if not path.is_file():
        return None
    leaves: list[bytes] = []
    with path.open("rb") as file:
        while line := file.readline(2 * HASH_BYTES + 2):
            if not re.fullmatch(rb"[0-9a-f]{64}\n", line):
                raise _Wrong(f"line {len(leaves) + 1} of {path.name} is no leaf hash", len(leaves))
            leaves.append(bytes.fromhex(line[:-1].decode()))
    return leaves


def _compare(
    leaves: Sequence[bytes], checkpoint: Checkpoint, before: Checkpoint | None, listed: Sequence[bytes] | None
) -> None:
    if len(leaves) != checkpoint.size:
        raise _Wrong(
            f"the checkpoint is of {checkpoint.size} entries, the export has {len(leaves)}",
            min(len(leaves), checkpoint.size),
        )
    if root_of(leaves, len(leaves)) != checkpoint.root:
        wrong = None
        if listed is not None and len(listed) == checkpoint.size and root_of(listed, len(listed)) == checkpoint.root:
            wrong = next(index for index, leaf in enumerate(leaves) if leaf != listed[index])
        where = "some entry was changed or moved" if wrong is None else f"entry {wrong} is not what was signed"
        raise _Wrong(f"the root of the entries is not the signed root: {where}", wrong)
    if listed is not None and list(listed) != list(leaves):
        raise _Wrong(f"{LEAVES} does not list the leaf hashes of the entries")
    if before is not None:
        if before.size > len(leaves):
            raise _Wrong(f"the earlier checkpoint had {before.size} entries, the export has {len(leaves)}")
        if root_of(leaves, before.size) != before.root:
            raise _Wrong(f"the first {before.size} entries are not those of the earlier checkpoint: rewritten history")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m steersman.ledger.proofs", description="Verify a ledger's export.")
    parser.add_argument("directory", type=Path, help=f"holds {ENTRIES}, {CHECKPOINT}, {VKEY}")
    parser.add_argument("--vkey", help="the log's verifier key, from a source you trust")
    parser.add_argument("--earlier", type=Path, help="a checkpoint of the same log that you kept")
    options = parser.parse_args(arguments)
    try:
        key = VerifierKey.parse(options.vkey) if options.vkey else None
        earlier = options.earlier.read_text(encoding="utf-8") if options.earlier else None
    except (CheckpointError, OSError, UnicodeDecodeError) as error:
        print(f"not verified: {error}")
        return 1
    verification = verify_export(options.directory, key, earlier)
    print(f"{'verified' if verification.ok else 'NOT VERIFIED'}: {verification.because}")
    return 0 if verification.ok else 1


if __name__ == "__main__":
    sys.exit(main())
