"""Attack A3: names that try to become paths, options, commands or other names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steersman.domain.errors import BadRequest
from steersman.domain.names import LENGTH_MAX, parse_name
from steersman.domain.spec.parts import NAME_PATTERN
from steersman.domain.spec.parts import Name as DocumentName

# Strings of published path-traversal reports against model registries and their proxies, and their usual variations.
TRAVERSALS = [
    "..",
    ".",
    "../etc/passwd",
    "..\\..\\windows",
    "a/../../b",
    "a/b",
    "/etc/passwd",
    "C:\\x",
    "C:",
    "//host/share",
    "file:///etc/passwd",
    "a/..;/b",
    "%2e%2e",
    "%2e%2e%2f",
    "%252e%252e%252f",
    "..%2f",
    "..%5c",
    "..%c0%af",
    "..%u2215",
    "%00",
    "a\x00.txt",
    "a\n",
    "a\r\nSet-Cookie: x",
    "\u2025",
    "\uff0e\uff0e\uff0fetc",
    "\u2215etc",
    "a\u0300",
    "\u0430dmin",  # Cyrillic a
    "\u202egnp.exe",
    "\u200b",
    ".git",
    ".env",
    "a..b",
    "#fragment",
    "a?b",
    "a#b/../..",
    "~root",
    "-rf",
    "--help",
    "@file",
    "NUL:",
    "a b",
    "a\tb",
    "A",
    "",
    "x" * (LENGTH_MAX + 1),
]
COMMANDS = [
    "$(touch x)",
    "`touch x`",
    "a;touch x",
    "a|b",
    "a&b",
    "a>b",
    "$IFS",
    "${HOME}",
    "a'b",
    'a"b',
    "*",
    "a\ntouch x",
]


@pytest.mark.parametrize("text", TRAVERSALS, ids=ascii)
def test_a3_a_name_that_is_a_path_in_disguise_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_name(text)


@pytest.mark.parametrize("text", COMMANDS, ids=ascii)
def test_a6_a_name_that_is_a_command_in_disguise_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_name(text)


@pytest.mark.parametrize("text", ["flight-delay", "ops", "v1.2.3", "a", "_x", "0", "x" * LENGTH_MAX, "a.b_c-d"])
def test_plain_names_are_accepted_unchanged(text: str) -> None:
    assert parse_name(text) == text


@given(text=st.text(max_size=140))
@example(text="..")
@example(text="a\n")
def test_a3_whatever_is_accepted_stays_one_component_beneath_its_root(text: str) -> None:
    try:
        name = parse_name(text)
    except BadRequest:
        return
    root = "/srv/state"
    assert os.path.normpath(os.path.join(root, name)) == f"{root}/{name}"
    assert Path(root, name).parent == Path(root)
    assert unquote(name) == name
    assert quote(name, safe="") == name
    assert re.fullmatch(r"[a-z0-9._-]{1,128}", name)
    assert not name.startswith((".", "-"))


@given(text=st.from_regex(r"[a-z0-9._%/\\-]{1,40}", fullmatch=True))
def test_a3_a_name_means_the_same_after_any_number_of_decodings(text: str) -> None:
    try:
        name = parse_name(text)
    except BadRequest:
        return
    assert unquote(unquote(name)) == name == text


@given(text=st.text(max_size=300).map(lambda text: text + "/"))
def test_a_refusal_says_what_is_allowed_and_repeats_at_most_sixty_printable_characters(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_name(text, what="model")
    assert refused.value.message.isprintable()
    assert refused.value.message.isascii()
    assert len(refused.value.message) < 100
    assert "a-z, 0-9" in refused.value.next_step


@pytest.mark.parametrize("text", [*TRAVERSALS, *COMMANDS], ids=ascii)
def test_a3_names_in_documents_are_no_wider_than_names_anywhere_else(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, DocumentName)


@given(text=st.from_regex(NAME_PATTERN))
def test_every_name_a_document_may_have_is_a_name(text: str) -> None:
    if len(text) <= 63:
        assert parse_name(msgspec.convert(text, DocumentName)) == text


@pytest.mark.parametrize("value", [None, 1, b"name", ["name"]])
def test_what_is_no_text_is_no_name(value: object) -> None:
    with pytest.raises(BadRequest):
        parse_name(value)
