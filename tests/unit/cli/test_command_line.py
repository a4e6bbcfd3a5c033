"""The command line: quick to start, the same words as everywhere, exit codes a script can rely on."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from steersman.cli import main
from steersman.cli.manual import COMMANDS
from steersman.client import Steersman
from steersman.client.credentials import Credentials, write_credentials
from steersman.domain.errors import Blocked, NotFound

RELEASE = "rel-01986f3e-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of the person who runs the tests."""
    for name in ("STEERSMAN_URL", "STEERSMAN_TOKEN", "STEERSMAN_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def answering(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Replace methods of the client; returns the calls made."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def method(name: str, answer: Any) -> Any:
        def call(_self: Steersman, *args: Any, **kwargs: Any) -> Any:
            calls.append((name, args, kwargs))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    for name, answer in answers.items():
        monkeypatch.setattr(Steersman, name, method(name, answer))
    return calls


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_a_help_page_and_a_function(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command.name, "--help"]) == 0
    assert f"steersman {command.name}" in capsys.readouterr().out
    module, function = command.run.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["--output", "json", "--help"]])
def test_the_overview_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_the_overview_imports_nothing_heavy() -> None:
    code = "import sys; from steersman.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert not loaded & {"argparse", "msgspec", "yaml", "asyncio", "ssl", "numpy", "sqlalchemy", "mlflow", "pandas"}


def test_commands_of_the_client_import_no_server_part(tmp_path: Path) -> None:
    document = "apiVersion: steersman/v1\nkind: Environment\nmetadata: {name: staging}\nspec: {}\n"
    (tmp_path / "e.yaml").write_text(document)
    code = (
        "import sys; from steersman.cli import main; assert main(['validate', 'e.yaml']) == 0; main(['status']);"
        "print(*sys.modules, file=sys.stdout)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    heavy = {"numpy", "sqlalchemy", "starlette", "uvicorn", "mlflow", "pandas", "polars", "steersman.server"}
    assert not set(ran.stdout.split()) & heavy


@pytest.mark.parametrize(
    "words",
    [["stats"], ["release", "m"], ["release", "m", "x", "--because", "y"], ["status", "--wat"], ["approve", "r"]],
)
def test_wrong_words_end_with_1_because_2_means_blocked(words: list[str]) -> None:
    assert main(words) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "json", "statsu"], """there is no command 'statsu', did you mean "status"?"""),
        (["--outptu", "json", "status"], """there is no flag '--outptu', did you mean "--output"?"""),
        (["--output=json", "xyzzy"], "there is no command 'xyzzy'; steersman --help lists them"),
    ],
)
def test_a_mistyped_word_is_told_which_is_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert said in "".join(capsys.readouterr())


def test_common_flags_stand_before_or_after_the_command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    answering(monkeypatch, status={"model": "m"})
    for words in (["--output", "json", "status", "m"], ["status", "m", "--output", "json"]):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == {"model": "m"}


def test_a_state_directory_named_like_a_command_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--state", "apply", "--url", "http://127.0.0.1:9", "status"]) == 1
    assert "nothing listens at http://127.0.0.1:9" in capsys.readouterr().err


def test_an_error_shows_its_next_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answering(monkeypatch, status=NotFound("there is no model m", next_step="Check the name."))
    assert main(["status", "m"]) == 1
    assert capsys.readouterr().err == "error: there is no model m\nnext:  Check the name.\n"
    assert main(["status", "m", "--output", "json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"id": RELEASE, "phase": "Progressing", "completion": None}, 0),
        ({"id": RELEASE, "phase": "Paused", "completion": None}, 2),
        ({"release": {"id": RELEASE, "phase": "Paused"}}, 2),
        ({"id": RELEASE, "phase": "Healthy", "completion": "Promoted"}, 0),
        ({"id": RELEASE, "phase": "Healthy", "completion": "Aborted"}, 1),
        ({"id": RELEASE, "phase": "Healthy", "completion": "Aborted", "blocked": "gate roc_auc"}, 2),
        (Blocked("a freeze is in force"), 2),
    ],
)
def test_a_release_ends_with_the_code_of_its_state(monkeypatch: pytest.MonkeyPatch, answer: Any, code: int) -> None:
    calls = answering(monkeypatch, release=answer)
    assert main(["release", "ops/m", "3", "--because", "better"]) == code
    assert calls == [("release", ("ops/m", 3), {"environment": "production", "because": "better", "hotfix": False})]


def test_waiting_shows_the_release_as_it_ended(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    ended = {"id": RELEASE, "phase": "Healthy", "completion": "RolledBack"}
    calls = answering(monkeypatch, release={"id": RELEASE, "phase": "Pending"}, wait=ended)
    assert main(["release", "m", "3", "--because", "b", "--wait", "5", "--output", "json"]) == 1
    name, what, asked = calls[1]
    assert (name, what, asked.pop("timeout_s"), [*asked]) == ("wait", (RELEASE,), 5.0, ["told"])
    assert json.loads(capsys.readouterr().out) == ended


@pytest.mark.parametrize("name", ["approve", "withdraw", "reject", "pause", "resume", "abort", "retry"])
def test_a_decision_needs_a_reason(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls = answering(monkeypatch, **{name: {"phase": "Progressing"}})
    assert main([name, RELEASE]) == 1
    assert main([name, RELEASE, "--because", "so"]) == 0
    assert calls == [(name, (RELEASE,), {"because": "so"})]


def test_promote_skips_one_step_or_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answering(monkeypatch, promote={"id": RELEASE, "phase": "Progressing"})
    for flags, full in (([], False), (["--full"], True)):
        assert main(["promote", RELEASE, *flags, "--because", "so"]) == 0
        assert calls[-1] == ("promote", (RELEASE,), {"because": "so", "full": full})


def test_a_waiver_names_what_is_skipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = answering(monkeypatch, waive={"id": "wai-1", "used_by": None})
    assert main(["waive", "ops/m", "3", "--because", "so"]) == 1
    assert main(["waive", "ops/m", "3", "--skip", "staging", "--because", "so"]) == 0
    told = {"skip": "staging", "environment": "production", "because": "so", "expires": "7d"}
    assert calls == [("waive", ("ops/m", 3), told)]
    assert "next: steersman release ops/m 3 --environment production" in capsys.readouterr().out


def test_history_takes_a_day_or_a_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = answering(monkeypatch, history={"history": []})
    assert main(["history", "m", "--at", "2026-03-01"]) == 0
    assert calls[0][2]["at"].isoformat() == "2026-03-01T00:00:00+00:00"
    assert main(["history", "m", "--at", "yesterday"]) == 1
    assert "is not a time" in capsys.readouterr().err


def test_a_plan_that_is_blocked_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, plan={"steps": [], "blocked": ["approval"]})
    assert main(["plan", "m", "--version", "3"]) == 2
    assert main(["plan", "m"]) == 1


def test_the_starter_document_is_valid_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "model.yaml", "--name", "credit"]) == 0
    assert main(["validate", "model.yaml"]) == 0
    assert "ok: Model default/credit sha256:" in capsys.readouterr().out
    assert main(["init", "model.yaml"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_starter_document_is_valid_with_everything_switched_on(tmp_path: Path) -> None:
    main(["init", "model.yaml"])
    path = tmp_path / "model.yaml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(_uncommented(line) for line in lines))
    assert main(["validate", "model.yaml"]) == 0


def _uncommented(line: str) -> str:
    code = line.lstrip()
    is_code = code.startswith(("# - {", "# - mirror", "# - analysis", "# groundTruth", "# train", "# holdout"))
    is_code = is_code or code.startswith(("#   ", "# incidents", "# retrain", "# workspace", "# owner", "# sticky"))
    return line.replace("# ", "", 1) if is_code and line.startswith(" ") else line


def test_a_broken_document_is_refused_with_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", "model.yaml"])
    path = tmp_path / "model.yaml"
    path.write_text(path.read_text().replace("setWeight: 10\n", "setWeight: 120\n"))
    assert main(["validate", "model.yaml"]) == 1
    said = "model.yaml: spec.environments.production.strategy.canary.steps[0]: setWeight must be within 0..100, got 120"
    assert said in capsys.readouterr().err


def test_an_error_of_the_linter_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", "model.yaml"])
    path = tmp_path / "model.yaml"
    text = "\n".join(_uncommented(line) for line in path.read_text().splitlines())
    path.write_text(text.replace("horizon: 1d", "horizon: 30d"))
    assert main(["validate", "model.yaml"]) == 1
    assert "horizon is beyond maxDuration" in capsys.readouterr().out


def test_the_schema_of_one_kind_or_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "Dataset"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["kind"] == {"const": "Dataset"}
    assert main(["schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"Model", "Dataset", "Environment"}
    assert main(["schema", "Pod"]) == 1


def test_the_token_of_the_state_directory_goes_to_its_own_address_only(tmp_path: Path) -> None:
    from argparse import Namespace

    from steersman.cli.session import connect

    write_credentials(tmp_path, Credentials(url="http://127.0.0.1:7700", token="secret"))

    def token_for(url: str | None) -> str | None:
        return connect(Namespace(url=url, token=None, state=str(tmp_path)))._token

    assert token_for(None) == "secret"
    assert token_for("http://127.0.0.1:7700/") == "secret"
    assert token_for("http://elsewhere.example") is None


def test_the_doctor_names_a_next_step_for_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--url", "http://127.0.0.1:9", "--output", "json"])
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["python"]["result"] == "ok"
    assert checks["control server"]["result"] == "warning"
    assert "steersman up" in checks["control server"]["next_step"]


def test_an_export_verifies_offline_and_a_changed_one_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from steersman.ledger.checkpoint import VerifierKey, sign_checkpoint
    from steersman.ledger.entry import Actor, Entry, Object
    from steersman.ledger.merkle import leaf_hash, root_of
    from steersman.ledger.proofs import write_export

    at = datetime(2013, 3, 1, tzinfo=UTC)
    alice = Actor(issuer="local", subject="alice", kind="person")
    model = Object(kind="Model", workspace="ops", name="m")
    bodies = [
        Entry(id=f"e{n}", at=at, recorded_at=at, actor=alice, action="a", object=model, because="b").body()
        for n in range(5)
    ]
    key = Ed25519PrivateKey.generate()
    leaves = [leaf_hash(body) for body in bodies]
    note = sign_checkpoint("test", 5, root_of(leaves, 5), key)
    write_export(tmp_path / "log", bodies, note, VerifierKey.of("test", key))
    assert main(["ledger", "verify", "log"]) == 0
    with tarfile.open(tmp_path / "log.tar", "w") as archive:
        archive.add(tmp_path / "log", arcname="ledger")
    assert main(["ledger", "verify", "log.tar", "--vkey", str(VerifierKey.of("test", key))]) == 0
    assert (
        main(["ledger", "verify", "log.tar", "--vkey", str(VerifierKey.of("test", Ed25519PrivateKey.generate()))]) == 1
    )
    entries = tmp_path / "log" / "entries.jsonl"
    entries.write_bytes(entries.read_bytes().replace(b"alice", b"mallo"))
    assert main(["ledger", "verify", "log"]) == 1
    assert "error:" in capsys.readouterr().err
    assert main(["ledger", "verify", "nothing"]) == 1


@pytest.mark.parametrize("name", ["../entries.jsonl", "/entries.jsonl", "ledger/../../entries.jsonl"])
def test_an_export_that_leads_out_of_its_folder_is_not_unpacked(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = tarfile.TarInfo(name)
    member.size = 3
    with tarfile.open(tmp_path / "log.tar", "w") as archive:
        archive.addfile(member, io.BytesIO(b"{}\n"))
    assert main(["ledger", "verify", str(tmp_path / "log.tar")]) == 1
    assert "leads out of it" in capsys.readouterr().err


def test_links_of_an_export_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text("not yours")
    link = tarfile.TarInfo("ledger/entries.jsonl")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
    with tarfile.open(tmp_path / "log.tar", "w") as archive:
        archive.addfile(link)
    assert main(["ledger", "verify", str(tmp_path / "log.tar")]) == 1
    assert "holds no entries.jsonl" in capsys.readouterr().err


def test_roles_are_granted_everywhere_or_in_one_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answering(monkeypatch, set_user={}, issue_token={"secret": "smt_x"})
    assert main(["user", "set", "maria", "--role", "viewer", "--role", "approver@ops"]) == 0
    assert calls[0][1] == ("maria", [("viewer", "*"), ("approver", "ops")])
    assert main(["user", "set", "maria", "--role", "boss"]) == 1
    assert main(["token", "issue", "ci", "--service", "--role", "operator", "--life", "30d"]) == 0
    assert calls[1][2]["life"].days == 30
    assert main(["token", "issue", "ci"]) == 1


def test_usage_names_the_command_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export"]) == 1
    assert "usage: steersman export " in "".join(capsys.readouterr())
