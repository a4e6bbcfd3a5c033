"""Where the tables are is chosen once, told to two processes, and known from references only."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman.domain.errors import BadRequest, Conflict, Misconfigured
from steersman.server.installation import Installation, Tables, load, save
from steersman.server.place import check_place, keep_place, tables_of_arguments, tables_variables
from steersman.server.supervisor import Supervisor

PLACE = Tables(uri="s3://logs/steersman", endpoint="http://127.0.0.1:1", key="env:S3_KEY", secret="env:S3_SECRET")


def test_the_processes_get_the_secret_in_their_environment_and_the_file_does_not_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_KEY", "the-key")
    monkeypatch.setenv("S3_SECRET", "the-secret")
    save(tmp_path, Installation(tables=PLACE))
    assert b"the-" not in (tmp_path / "installation.json").read_bytes()
    assert tables_variables(load(tmp_path)) == {
        "STEERSMAN_TABLES": "s3://logs/steersman",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "the-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
    }
    supervisor = Supervisor(state=tmp_path, installation=load(tmp_path), say=lambda _text: None)
    for name in ("router", "committer", "control"):
        supervisor._add(name, f"steersman.dataplane.{name}")
        child = supervisor.children[name]
        assert ("the-secret" in child.environment.values()) == (name != "router")
        assert "the-secret" not in " ".join(child.argv)


def test_an_installation_without_a_place_has_no_variables() -> None:
    assert tables_variables(Installation()) == {}


def test_a_start_that_does_not_name_the_place_keeps_it(tmp_path: Path) -> None:
    assert keep_place(tmp_path, Installation(), Installation(tables=PLACE)).tables == PLACE


def test_half_a_log_in_two_places_is_refused(tmp_path: Path) -> None:
    elsewhere = Installation(tables=Tables(uri="s3://other/x"))
    with pytest.raises(Conflict, match=r"are in s3://logs/steersman, not in s3://other/x"):
        keep_place(tmp_path, elsewhere, Installation(tables=PLACE))
    assert keep_place(tmp_path, elsewhere, Installation()) == elsewhere
    (tmp_path / "tables" / "ops").mkdir(parents=True)
    with pytest.raises(Conflict, match="not in s3://other/x"):
        keep_place(tmp_path, elsewhere, Installation())


def test_a_place_that_does_not_answer_is_said_and_does_not_keep_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_KEY", "the-key")
    monkeypatch.setenv("S3_SECRET", "the-secret")
    said = check_place(tmp_path, Installation(tables=PLACE))
    assert said is not None
    assert "cannot be reached" in said
    assert "the-secret" not in said
    assert check_place(tmp_path, Installation()) is None


def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="env:S3_KEY"):
        check_place(tmp_path, Installation(tables=PLACE))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, "http://x", None, None, None), "belongs to --tables"),
        (("gs://bucket", None, None, None, None), "is no place for tables"),
        (("s3://bucket", "ftp://x", None, None, None), "--tables-endpoint is no address"),
        (("s3://bucket", None, None, "env:KEY", None), "a key needs its secret"),
    ],
)
def test_what_is_wrong_with_the_flags_is_said(arguments: tuple[str | None, ...], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        tables_of_arguments(*arguments)  # type: ignore[arg-type]
