"""What a person reads first: which version is live, since when, what is on its way, what is wrong, what to do next."""

from __future__ import annotations

from typing import Any

from inline_snapshot import snapshot

from steersman.cli import reports
from steersman.cli.output import report, table

NOW = "2026-11-23T16:20:14.531942Z"
RELEASE = "rel-01a20935-4273-7a02-b659-b1c5b3ab13d6"


def place(**changed: Any) -> dict[str, Any]:
    empty = {"live": None, "since": None, "release": None, "release_number": None, "release_version": None}
    return {**empty, "phase": None, "because": None, "open_incidents": 0, **changed}


def model(**environments: Any) -> dict[str, Any]:
    return {
        "workspace": "ops",
        "name": "delay",
        "owner": "",
        "tier": 1,
        "type": "predictor",
        "environments": environments,
    }


def release(**changed: Any) -> dict[str, Any]:
    return {
        "id": RELEASE,
        "workspace": "default",
        "model": "delay",
        "environment": "production",
        "number": 2,
        "version": 4,
        "digest": "sha256:" + "ab" * 32,
        "previous": {"version": 3},
        "opened": "command",
        "opened_at": NOW,
        "opened_by": "ann",
        "phase": "Progressing",
        "completion": None,
        "because": "trained on spring",
        **changed,
    }


def standing(*choices: tuple[str, str], reason: str = "approval lacking") -> dict[str, Any]:
    told = [{"command": command, "does": does} for command, does in choices]
    return {"reason": reason, "means": "what it means", "advice": "what to do", "choices": told}


def test_the_fleet_is_one_row_for_each_environment_and_then_what_a_person_should_look_at() -> None:
    approve = (f'steersman approve {RELEASE} --because "…"', "agrees")
    waits = {
        "id": RELEASE, "number": 2, "version": 4, "state": "Paused", "because": "an approval is missing",
        "standing": standing(approve, (f'steersman reject {RELEASE} --because "…"', "ends it")),
    }  # fmt: skip
    paused = place(
        live=3, since=NOW, release=RELEASE, release_number=2, release_version=4, phase="Paused",
        because="an approval is missing", open_incidents=1, look_at=waits,
    )  # fmt: skip
    ended = {**waits, "state": "Aborted", "because": "gate failed", "standing": standing(approve, reason="gate failed")}
    failed = place(live=3, since=NOW, phase="Healthy", look_at=ended)
    assert reports.models([model(production=paused, dev=failed, staging=place())]) == snapshot("""\
MODEL      ENVIRONMENT  LIVE       SINCE                 ON ITS WAY            PHASE    REASON            INCIDENTS
ops/delay  production   version 3  2026-11-23 16:20:14Z  version 4, release 2  Paused   approval lacking          1
ops/delay  dev          version 3  2026-11-23 16:20:14Z  –                     Healthy  –                         0
ops/delay  staging      –          –                     –                     –        –                         0

ops/delay in production: release 2 of version 4 waits for a person
reason   approval lacking
because  an approval is missing
means    what it means
do       what to do
next: steersman approve rel-01a20935-4273-7a02-b659-b1c5b3ab13d6 --because "…"  # agrees
next: steersman reject rel-01a20935-4273-7a02-b659-b1c5b3ab13d6 --because "…"   # ends it

ops/delay in dev: release 2 of version 4 ended as Aborted
reason   gate failed
because  gate failed
means    what it means
do       what to do
next: steersman approve rel-01a20935-4273-7a02-b659-b1c5b3ab13d6 --because "…"  # agrees

ops/delay in staging has no version that answers
next: steersman release ops/delay VERSION --because "first version"\
""")


def test_a_model_says_for_what_its_releases_wait_also_the_one_queued_behind() -> None:
    look = (f"steersman releases {RELEASE}", "shows where it stands")
    seen = {"version": 4, "because": "gates passed"}
    going = {
        **seen,
        "id": RELEASE,
        "number": 2,
        "state": "Progressing",
        "standing": standing(look, reason="labels awaited"),
    }
    queued = {**seen, "id": "rel-3", "number": 3, "state": "Pending", "standing": standing(look, reason="frozen")}
    there = place(
        live=3, since=NOW, release=RELEASE, release_number=2, release_version=4, phase="Progressing",
        under_way=[going, queued],
    )  # fmt: skip
    found = {**model(production=there), "releases": [], "incidents": [], "challengers": {}}
    assert reports.model(found) == snapshot("""\
ops/delay, predictor, tier 1, owner –

MODEL      ENVIRONMENT  LIVE       SINCE                 ON ITS WAY                      PHASE        REASON          INCIDENTS
ops/delay  production   version 3  2026-11-23 16:20:14Z  version 4, release 2, 1 queued  Progressing  labels awaited          0

ops/delay in production: release 2 of version 4
reason   labels awaited
because  gates passed
means    what it means
do       what to do
next: steersman releases rel-01a20935-4273-7a02-b659-b1c5b3ab13d6  # shows where it stands

ops/delay in production: release 3 of version 4
reason   frozen
because  gates passed
means    what it means
do       what to do
next: steersman releases rel-01a20935-4273-7a02-b659-b1c5b3ab13d6  # shows where it stands\
""")


def test_who_waits_for_a_release_reads_for_what_it_waits() -> None:
    waiting = release(phase="Pending", standing=standing(reason="waits for another release"))
    assert reports.waits_for(waiting) == snapshot(
        "release 2 of version 4 is Pending, waits for another release: what it means"
    )
    assert reports.waits_for(release()) == "release 2 of version 4 is Progressing"


def test_an_empty_installation_says_how_to_begin() -> None:
    assert "next: steersman init model.yaml" in reports.models([])


def test_a_release_says_why_it_stands_there_what_that_means_and_what_comes_next() -> None:
    body = {
        "name": "roc_auc", "outcome": "inconclusive", "because": "roc_auc: straddling the margin", "estimate": "0.0133",
        "lower": "-0.0021", "upper": "0.0287", "n": 6, "n_unit": "days", "margin": "0.02", "needed": 4,
    }  # fmt: skip
    asked = standing((f'steersman resume {RELEASE} --because "…"', "lets it go on"), ("steersman doctor", "looks"))
    verdict = {"at": NOW, "kind": "analysis", "body": body}
    found = release(phase="Paused", because="undecided", standing=asked, verdicts=[verdict])
    assert reports.release(found) == snapshot("""\
release     2 of delay in production
id          rel-01a20935-4273-7a02-b659-b1c5b3ab13d6
version     4
digest      sha256:abababababababababababababababababababababababababababababababab
replaces    version 3
opened      2026-11-23 16:20:14Z by ann (command)
phase       Paused
completion  –
because     undecided
reason      approval lacking
means       what it means
do          what to do
evidence:
  AT                    KIND      WHAT     OUTCOME       ESTIMATE  INTERVAL            LIMIT  N       STILL NEEDED
  2026-11-23 16:20:14Z  analysis  roc_auc  inconclusive  +0.0133   -0.0021 to +0.0287  0.02   6 days             4
  analysis: roc_auc: straddling the margin
next: steersman resume rel-01a20935-4273-7a02-b659-b1c5b3ab13d6 --because "…"  # lets it go on
next: steersman doctor                                                         # looks\
""")


def test_a_release_that_came_without_its_standing_names_the_command_that_shows_it() -> None:
    assert reports.release(release()).splitlines()[-1] == f"next: steersman releases {RELEASE}"


def test_history_says_what_was_live_by_which_release_on_what_evidence_and_who_agreed() -> None:
    chapter = {
        "environment": "production", "version": 4, "digest": "sha256:" + "ab" * 32, "release": RELEASE, "number": 2,
        "live_from": NOW, "live_until": None, "completion": None, "opened": "command", "opened_by": "ann",
        "incident": None, "because": "promoted", "approved_by": ["bob"], "ledger": [7, 8],
        "evidence": [{"at": NOW, "kind": "gate", "body": {"outcome": "successful", "because": "AUC 0.71"}}],
    }  # fmt: skip
    said = reports.history({"history": [chapter]}, model="delay", at="2026-12-01", environment=None)
    assert said == snapshot("""\
production: version 4 was live at 2026-12-01
  live         2026-11-23 16:20:14Z until now
  digest       sha256:abababababababababababababababababababababababababababababababab
  release      2 (rel-01a20935-4273-7a02-b659-b1c5b3ab13d6)
  opened by    ann (command)
  approved by  bob
  completion   not yet, it is verified
  because      promoted
  ledger       entries 7, 8
  evidence:
    AT                    KIND  OUTCOME     BECAUSE
    2026-11-23 16:20:14Z  gate  successful  AUC 0.71\
""")
    nothing = reports.history({"history": []}, model="delay", at="2020-01-01", environment="production")
    assert nothing.startswith("nothing of delay was live in production at 2020-01-01\nnext: ")


def test_a_table_aligns_numbers_cuts_times_and_leaves_out_what_is_empty() -> None:
    rows = [{"n": 5, "at": NOW, "digest": "sha256:" + "ab" * 32, "retired_at": None}, {"n": 10, "at": None}]
    assert table(rows) == snapshot("""\
 N  AT                    DIGEST
 5  2026-11-23 16:20:14Z  sha256:abababababab
10  –                     –\
""")


def test_an_answer_of_another_version_of_steersman_is_shown_as_it_came(capsys: Any) -> None:
    report({"phase": "Pending"}, None, lambda: reports.release({"phase": "Pending"}))
    assert capsys.readouterr().out == "phase  Pending\n"
