"""Signed notes and checkpoints against the published examples, and against forgeries."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from steersman.ledger.checkpoint import (
    CheckpointError,
    VerifierKey,
    generate_key,
    load_key,
    parse_checkpoint,
    sign_checkpoint,
    sign_note,
    verify_checkpoint,
    verify_note,
)

# The example of c2sp.org/signed-note.
C2SP_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# The example of golang.org/x/mod/sumdb/note; Ed25519 is deterministic, so signing must give these very bytes.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = GO_TEXT + (
    "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "steersman.example/ledger"
VKEY = VerifierKey.of(ORIGIN, KEY)
ROOT = bytes(range(100, 132))


def test_the_published_example_of_signed_note_verifies() -> None:
    key = VerifierKey.parse(C2SP_VKEY)
    assert str(key) == C2SP_VKEY
    assert verify_note(C2SP_NOTE, key) == "This is an example message.\n"


def test_signing_gives_the_very_bytes_of_the_example_of_go() -> None:
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(GO_SECRET)[1:])
    assert str(VerifierKey.of("PeterNeumann", key)) == GO_VKEY
    assert sign_note(GO_TEXT, "PeterNeumann", key) == GO_NOTE
    assert verify_note(GO_NOTE, VerifierKey.parse(GO_VKEY)) == GO_TEXT


def test_a_note_signed_by_several_verifies_for_each_and_strangers_are_ignored() -> None:
    stranger = "— witness.example " + base64.b64encode(b"1234" + b"x" * 2420).decode() + "\n"
    assert verify_note(C2SP_NOTE + stranger, VerifierKey.parse(C2SP_VKEY)) == "This is an example message.\n"
    with pytest.raises(CheckpointError, match="no signature by PeterNeumann"):
        verify_note(C2SP_NOTE, VerifierKey.parse(GO_VKEY))


def test_a_checkpoint_says_origin_size_and_root_and_reads_back() -> None:
    note = sign_checkpoint(ORIGIN, 20852163, ROOT, KEY)
    assert note.split("\n")[:3] == [ORIGIN, "20852163", base64.b64encode(ROOT).decode()]
    checkpoint = verify_checkpoint(note, VKEY)
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (ORIGIN, 20852163, ROOT)


def test_the_checkpoint_example_of_the_specification_parses() -> None:
    checkpoint = parse_checkpoint(
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(at: int, bit: int) -> None:
    note = sign_checkpoint(ORIGIN, 7, ROOT, KEY).encode()
    at %= len(note)
    forged = note[:at] + bytes([note[at] ^ (1 << bit)]) + note[at + 1 :]
    with pytest.raises((CheckpointError, UnicodeDecodeError)):
        verify_checkpoint(forged.decode("utf-8"), VKEY)


def test_a_checkpoint_of_another_log_signed_by_the_same_key_is_refused() -> None:
    other = sign_note(f"other.example\n7\n{base64.b64encode(ROOT).decode()}\n", ORIGIN, KEY)
    with pytest.raises(CheckpointError, match=r"of other\.example"):
        verify_checkpoint(other, VKEY)


def test_a_checkpoint_signed_by_another_key_under_the_same_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no signature by"):
        verify_checkpoint(sign_checkpoint(ORIGIN, 7, ROOT, Ed25519PrivateKey.generate()), VKEY)


@pytest.mark.parametrize("size", ["", "-1", "+7", "07", "7 ", "٧", "7e1", str(2**63), "9" * 5000])
def test_a_size_that_is_no_plain_decimal_number_is_refused(size: str) -> None:
    text = f"{ORIGIN}\n{size}\n{base64.b64encode(ROOT).decode()}\n"
    with pytest.raises(CheckpointError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        C2SP_VKEY.replace("530d903a", "530d903b"),
        C2SP_VKEY.replace("530d903a", "530D903A"),
        C2SP_VKEY.replace("example.com/foo", "example.com/bar"),
        C2SP_VKEY + "!",
        "log+12345678+" + base64.b64encode(b"\x06" + bytes(1312)).decode(),
        "a b+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ],
)
def test_a_verifier_key_that_contradicts_itself_is_refused(vkey: str) -> None:
    with pytest.raises(CheckpointError):
        VerifierKey.parse(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "a\u2003b"])
def test_an_origin_that_would_break_the_note_is_refused_when_signing(name: str) -> None:
    with pytest.raises(CheckpointError):
        sign_checkpoint(name, 0, ROOT, KEY)


def test_a_generated_key_is_private_to_its_owner_and_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ledger.pem"
    key = generate_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert VerifierKey.of(ORIGIN, load_key(path)) == VerifierKey.of(ORIGIN, key)
    with pytest.raises(FileExistsError):
        generate_key(path)


def test_a_signing_key_that_others_can_read_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.pem"
    generate_key(path)
    path.chmod(0o640)
    with pytest.raises(CheckpointError, match="chmod 600"):
        load_key(path)


def test_a_file_that_is_no_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.pem"
    path.write_text("canary-7f3a")
    path.chmod(0o600)
    with pytest.raises(CheckpointError) as refused:
        load_key(path)
    assert "canary" not in str(refused.value)
