"""The guard's small parts: canonical paths, signed identities, the protection file."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman_mlflow_guard import identity, paths, protection
from steersman_mlflow_guard.artifacts import normal, root_of
from steersman_mlflow_guard.identity import Access, Caller, Kind, NotSignedError, sign, verify
from steersman_mlflow_guard.protection import EVERYTHING, Mode, Protection, ProtectionFile

KEY = "ab" * 32
ADA = Caller(subject="ada@example.com", kind=Kind.USER, access=Access.READ)


class TestPaths:
    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1), max_size=6))
    def test_have_one_spelling_or_no_entry(self, segments: list[str]) -> None:
        raw = ("/" + "/".join(quote(segment, safe="") for segment in segments)).encode()
        if paths.objection(raw) is None:
            again = "/".join(quote(segment, safe="!$&'()*+,=:@<>[]") for segment in unquote(raw.decode()).split("/"))
            assert unquote(again) == unquote(raw.decode())
            assert not {"", ".", ".."} & set(unquote(raw.decode()).split("/")[1:-1])

    @pytest.mark.parametrize(
        "path",
        [
            *rb"a //a /a//b /a/../b /a/. /a%2Fb /a%5cb /a\b /a;b /a%3bb /%2e%2e/a /%252e /a% /a%zz /a%00 /%61 /%ff".split(),
            *(b"", b"/a b", b"/a#b", b"/a\x00", b"/a\n", b"/\xc3\xa9", b"/" + b"a" * 5000),
        ],
    )
    def test_with_a_second_spelling_are_refused(self, path: bytes) -> None:
        assert paths.objection(path)

    @pytest.mark.parametrize("path", [b"/", b"/a/b", b"/a/b/", b"/a%20b", b"/%C3%A9", b"/model.lgb", b"/a:b@c"])
    def test_in_their_plain_form_pass(self, path: bytes) -> None:
        assert paths.objection(path) is None


class TestIdentity:
    def _headers(self, now_s: float = 100.0, key: str = KEY, method: str = "GET") -> list[tuple[bytes, bytes]]:
        return [(b"x-steersman-identity", sign(ADA, key=key, method=method, target="/a?b", now_s=now_s).encode())]

    def test_is_believed_when_we_signed_it(self) -> None:
        assert verify(self._headers(), key=KEY, method="GET", target="/a?b", now_s=130.0) == ADA

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda headers: [],
            lambda headers: headers * 2,
            lambda headers: [*headers, (b"x_steersman_identity", headers[0][1])],
            lambda headers: [*headers, (b"x-steersman-anything", b"1")],
            lambda headers: [(headers[0][0], headers[0][1].replace(b".read.", b".write."))],
            lambda headers: [(headers[0][0], headers[0][1].replace(b".user.", b".system."))],
            lambda headers: [(headers[0][0], b"")],
            lambda headers: [(headers[0][0], b"....")],
            lambda headers: [(headers[0][0], b"\xff.\xff")],
        ],
    )
    def test_is_not_believed_when_anything_was_changed(
        self, spoil: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]
    ) -> None:
        with pytest.raises(NotSignedError):
            verify(spoil(self._headers()), key=KEY, method="GET", target="/a?b", now_s=100.0)

    @pytest.mark.parametrize(
        ("method", "target", "now_s", "key"),
        [
            ("POST", "/a?b", 100, KEY),
            ("GET", "/a?c", 100, KEY),
            ("GET", "/a?b", 161, KEY),
            ("GET", "/a?b", 100, "cd" * 32),
        ],
    )
    def test_holds_for_one_request_one_minute_and_one_start(
        self, method: str, target: str, now_s: float, key: str
    ) -> None:
        with pytest.raises(NotSignedError):
            verify(self._headers(), key=key, method=method, target=target, now_s=now_s)

    def test_is_ours_in_every_spelling_a_server_may_fold(self) -> None:
        for first, second in itertools.product("-_", "-_"):
            assert identity.is_ours(f"X{first}STEERSMAN{second}Identity")
        assert not identity.is_ours("X-Request-Id")


class TestTheProtectionFile:
    def test_reads_what_was_written_and_sees_when_it_changes(self, tmp_path: Path) -> None:
        path = tmp_path / "protection.json"
        file = ProtectionFile(path)
        first = Protection(released={"m": frozenset({1, 3})})
        protection.write(path, first)
        assert file.current() == first
        second = Protection(mode=Mode.WARN, aliases=frozenset({"live"}))
        protection.write(path, second)
        assert file.current() == second
        assert [entry.name for entry in tmp_path.iterdir()] == ["protection.json"]

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"mode": "off"}', '{"mode": "warn", "aliases": [], "released": {"m": 1}}']
    )
    def test_protects_everything_when_it_cannot_be_read(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "protection.json"
        assert ProtectionFile(path).current() == EVERYTHING
        path.write_text(text)
        assert ProtectionFile(path).current() == EVERYTHING
        assert EVERYTHING.is_released("anything", 1)


def test_two_spellings_of_a_stored_file_are_one() -> None:
    assert normal("/1/Models//x/./model") == normal("1/models/x/model/") == "1/models/x/model"


def test_the_root_of_a_version_is_known_for_what_mlflow_proxies_only() -> None:
    assert root_of("mlflow-artifacts:/1/models/m-1/artifacts") == "1/models/m-1/artifacts"
    assert root_of("mlflow-artifacts://host:5000/1/models/m-1/artifacts") == "1/models/m-1/artifacts"
    assert root_of("http://host/api/2.0/mlflow-artifacts/artifacts/1/a") == "1/a"
    assert root_of("s3://bucket/1/a") == ""
