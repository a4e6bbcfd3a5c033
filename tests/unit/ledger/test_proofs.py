"""Receipts and exports: what an auditor holds in hand, and every way to tamper with it (attack A12)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.ledger.checkpoint import CheckpointError, VerifierKey, sign_checkpoint
from steersman.ledger.entry import Actor, Entry, Object
from steersman.ledger.merkle import ProofError, leaf_hash, root_of
from steersman.ledger.proofs import (
    Verification,
    main,
    make_receipt,
    parse_receipt,
    verify_export,
    verify_receipt,
    write_export,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "steersman.example/ledger"
VKEY = VerifierKey.of(ORIGIN, KEY)
WHEN = datetime(2013, 5, 1, tzinfo=UTC)


def bodies_of(count: int) -> list[bytes]:
    return [
        Entry(
            id=f"0196a0c4-7a00-7000-8000-{index:012d}",
            at=WHEN + timedelta(days=index),
            recorded_at=WHEN,
            actor=Actor(issuer="local", subject="reconciler", kind="system"),
            action="release.opened",
            object=Object(kind="release", workspace="ops", name="flight-delay", more={"version": str(index)}),
            because="incident 4",
        ).body()
        for index in range(count)
    ]


BODIES = bodies_of(13)


def signed(bodies: list[bytes], key: Ed25519PrivateKey = KEY) -> str:
    leaves = [leaf_hash(body) for body in bodies]
    return sign_checkpoint(ORIGIN, len(leaves), root_of(leaves, len(leaves)), key)


def export_of(directory: Path, bodies: list[bytes]) -> Path:
    write_export(directory, bodies, signed(bodies), VKEY)
    return directory


def test_a_receipt_proves_each_entry_and_no_other() -> None:
    leaves = [leaf_hash(body) for body in BODIES]
    for index, body in enumerate(BODIES):
        receipt = make_receipt(leaves, index, signed(BODIES))
        assert receipt.startswith(f"c2sp.org/tlog-proof@v1\nindex {index}\n")
        assert verify_receipt(receipt, body, VKEY).size == 13
        with pytest.raises(ProofError):
            verify_receipt(receipt, BODIES[index - 1], VKEY)


def test_a_receipt_can_carry_the_entry_along() -> None:
    receipt = make_receipt([leaf_hash(body) for body in BODIES], 5, signed(BODIES), body=BODIES[5])
    carried = parse_receipt(receipt).extra
    assert carried == BODIES[5]
    verify_receipt(receipt, carried, VKEY)


def test_the_receipt_layout_is_that_of_the_published_example() -> None:
    receipt = parse_receipt(
        "c2sp.org/tlog-proof@v1\nindex 73894\n"
        "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\nB95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n\n"
        "example.com/fancylog\n109482\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n"
        "— example.com/fancylog hI2DJw==\n"
    )
    assert (receipt.index, len(receipt.proof)) == (73894, 2)
    assert receipt.checkpoint.startswith("example.com/fancylog\n109482\n")


@settings(max_examples=300)
@given(at=st.integers(0), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_receipt_goes_unnoticed(at: int, bit: int) -> None:
    receipt = make_receipt([leaf_hash(body) for body in BODIES], 6, signed(BODIES)).encode()
    at %= len(receipt)
    forged = receipt[:at] + bytes([receipt[at] ^ (1 << bit)]) + receipt[at + 1 :]
    with pytest.raises((ProofError, CheckpointError, UnicodeDecodeError)):
        verify_receipt(forged.decode("utf-8"), BODIES[6], VKEY)


def test_an_export_verifies_with_and_without_the_key_from_elsewhere(tmp_path: Path) -> None:
    directory = export_of(tmp_path / "export", BODIES)
    trusted = verify_export(directory, VKEY)
    assert (trusted.ok, trusted.entries, trusted.origin) == (True, 13, ORIGIN)
    assert "key came with the export" not in trusted.because
    assert "key came with the export" in verify_export(directory).because


def test_an_empty_log_exports_and_verifies(tmp_path: Path) -> None:
    assert verify_export(export_of(tmp_path / "export", []), VKEY).ok


def test_an_export_is_not_written_over_another_nor_against_a_foreign_checkpoint(tmp_path: Path) -> None:
    directory = export_of(tmp_path / "export", BODIES)
    with pytest.raises(FileExistsError):
        write_export(directory, BODIES, signed(BODIES), VKEY)
    with pytest.raises(ValueError, match="another root"):
        write_export(tmp_path / "other", BODIES[:-1], signed(BODIES), VKEY)


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / name
        path.write_bytes(change(path.read_bytes()))

    return apply


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda raw: b"".join(change(raw.splitlines(keepends=True)))


A12 = {
    "one body altered": (
        edit("entries.jsonl", lambda raw: raw.replace(b'"version":"4"', b'"version":"5"')),
        "entry 4 is not what was signed",
    ),
    "who did it altered": (
        edit("entries.jsonl", lambda raw: raw.replace(b"reconciler", b"ada", 1)),
        "entry 0 is not what was signed",
    ),
    "the time it was recorded altered": (
        edit("entries.jsonl", lambda raw: raw.replace(b'"recorded_at":"2013', b'"recorded_at":"2012', 1)),
        "entry 0 is not what was signed",
    ),
    "two entries swapped": (
        edit("entries.jsonl", lines(lambda all_: [*all_[:2], all_[3], all_[2], *all_[4:]])),
        "entry 2 is not what was signed",
    ),
    "the tail cut off": (edit("entries.jsonl", lines(lambda all_: all_[:-1])), "the export has 12"),
    "an entry removed from the middle": (
        edit("entries.jsonl", lines(lambda all_: all_[:5] + all_[6:])),
        "the export has 12",
    ),
    "an entry added": (
        edit("entries.jsonl", lambda raw: raw + bodies_of(14)[-1] + b"\n"),
        "the export has 14",
    ),
    "an entry doubled": (
        edit("entries.jsonl", lines(lambda all_: [*all_[:3], all_[2], *all_[4:]])),
        "entry 3 repeats the id of entry 2",
    ),
    "a body respaced": (edit("entries.jsonl", lambda raw: raw.replace(b'"v":1', b'"v": 1', 1)), "entry 0: "),
    "the last newline gone": (edit("entries.jsonl", lambda raw: raw[:-1]), "entry 12 is cut off"),
    "carriage returns added": (edit("entries.jsonl", lambda raw: raw.replace(b"\n", b"\r\n")), "entry 0: "),
    "the size in the checkpoint altered": (
        edit("checkpoint", lambda raw: raw.replace(b"\n13\n", b"\n12\n")),
        "does not verify",
    ),
    "the checkpoint of another history": (
        edit("checkpoint", lambda _: signed(bodies_of(12)).encode()),
        "checkpoint is of 12 entries, the export has 13",
    ),
    "the signature removed": (edit("checkpoint", lambda raw: raw.partition(b"\n\n")[0] + b"\n"), "lacks"),
    "the list of leaf hashes altered": (
        edit("leaves.txt", lines(lambda all_: [all_[1], all_[0], *all_[2:]])),
        "leaves.txt does not list",
    ),
    "the entries gone": (lambda directory: (directory / "entries.jsonl").unlink(), "no file entries.jsonl"),
    "the checkpoint gone": (lambda directory: (directory / "checkpoint").unlink(), "no file checkpoint"),
}


@pytest.mark.parametrize("name", A12)
def test_a12_tampering_with_an_export_is_found_and_named(tmp_path: Path, name: str) -> None:
    tamper, message = A12[name]
    directory = export_of(tmp_path / "export", BODIES)
    tamper(directory)
    verification = verify_export(directory, VKEY)
    assert not verification.ok
    assert message in verification.because


def test_a12_an_altered_entry_is_found_even_where_no_leaf_hashes_are_listed(tmp_path: Path) -> None:
    directory = export_of(tmp_path / "export", BODIES)
    (directory / "leaves.txt").unlink()
    assert verify_export(directory, VKEY).ok
    A12["one body altered"][0](directory)
    assert "some entry was changed or moved" in verify_export(directory, VKEY).because


def test_a12_a_rewritten_log_signed_with_a_new_key_fails_against_the_trusted_key(tmp_path: Path) -> None:
    forger = Ed25519PrivateKey.generate()
    forged = [*BODIES[:4], *bodies_of(5)[4:], *BODIES[5:]][:-1]
    write_export(tmp_path / "export", forged, signed(forged, forger), VerifierKey.of(ORIGIN, forger))
    assert verify_export(tmp_path / "export").ok
    assert "no signature by" in verify_export(tmp_path / "export", VKEY).because


def test_a12_an_insider_with_database_and_key_is_caught_by_an_older_checkpoint(tmp_path: Path) -> None:
    kept = signed(BODIES[:8])
    honest = export_of(tmp_path / "honest", BODIES)
    assert "extends the earlier checkpoint of 8 entries" in verify_export(honest, VKEY, kept).because
    forged = [body.replace(b"incident 4", b"incident 5") if index == 3 else body for index, body in enumerate(BODIES)]
    rewritten = export_of(tmp_path / "forged", forged)
    assert verify_export(rewritten, VKEY).ok
    assert "rewritten history" in verify_export(rewritten, VKEY, kept).because


def test_a12_an_old_backup_put_back_is_caught_by_a_newer_checkpoint(tmp_path: Path) -> None:
    restored = export_of(tmp_path / "export", BODIES[:6])
    assert "the export has 6" in verify_export(restored, VKEY, signed(BODIES)).because


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["entries.jsonl", "checkpoint", "leaves.txt"]), at=st.integers(0), bit=st.integers(0, 7))
def test_a12_no_flipped_bit_of_an_export_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, bit: int
) -> None:
    directory = export_of(tmp_path_factory.mktemp("flip") / "export", BODIES[:3])
    path = directory / name
    raw = path.read_bytes()
    at %= len(raw)
    path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :])
    assert not verify_export(directory, VKEY).ok


def test_verifying_never_raises_on_what_it_finds(tmp_path: Path) -> None:
    directory = export_of(tmp_path / "export", BODIES)
    for name in ("checkpoint", "vkey", "entries.jsonl", "leaves.txt"):
        kept = (directory / name).read_bytes()
        for raw in (b"", b"\xff\xfe", b"\x00" * 300_000, b"{" * 300_000, b"\n" * 10):
            (directory / name).write_bytes(raw)
            found = verify_export(directory)
            assert isinstance(found, Verification)
            assert not found.ok
        (directory / name).write_bytes(kept)


def test_the_verifier_runs_offline_as_a_module_and_imports_nothing_else_of_ours(tmp_path: Path) -> None:
    directory = export_of(tmp_path / "export", BODIES)
    program = (
        "import sys; from steersman.ledger.proofs import main; status = main(sys.argv[1:]); "
        "print(sorted(name for name in sys.modules if name.startswith('steersman.') "
        "and not name.startswith('steersman.ledger'))); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory), "--vkey", str(VKEY)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"verified: 13 entries, root and signature of {ORIGIN} agree", "[]"]


def test_the_verifier_exits_with_an_error_when_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = export_of(tmp_path / "export", BODIES)
    A12["one body altered"][0](directory)
    assert main([str(directory)]) == 1
    assert capsys.readouterr().out.startswith("NOT VERIFIED: the root of the entries")
    assert main([str(directory), "--vkey", "nonsense"]) == 1
