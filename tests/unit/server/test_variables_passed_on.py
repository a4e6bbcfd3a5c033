"""A process of an installation sees the variables it needs, and no other's."""

from __future__ import annotations

import pytest

from steersman.server.children import environment_of

GIVEN = {
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
    "UV_DEFAULT_INDEX": "https://user:secret@example.com/simple",
    "https_proxy": "http://127.0.0.1:3128",
    "AWS_SECRET_ACCESS_KEY": "secret",
}


@pytest.mark.parametrize(
    ("process", "seen"),
    [
        ("router", {"OTEL_EXPORTER_OTLP_HEADERS"}),
        ("control", {"UV_DEFAULT_INDEX", "https_proxy"}),
        ("mlflow", set()),
    ],
)
def test_where_traces_go_and_packages_come_from_is_told_to_one_process_each(
    process: str, seen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    assert environment_of(process).keys() & GIVEN.keys() == seen


def test_only_the_committer_has_its_allocators_told_to_give_back() -> None:
    assert {name for name in ("router", "control", "committer") if "_RJEM_MALLOC_CONF" in environment_of(name)} == {
        "committer"
    }
