"""Gates of every kind, and the check that runs them without a release: what a CI system asks before it lets a change in."""

from typing import Any

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import NotFound
from steersman.domain.release import Completion, Phase
from steersman.domain.version import Column
from steersman.loop.checking import CHECKS, check_status, checks_of, subject_of
from steersman.server.answers import release_status
from steersman.testing.story import DATASET, Story, canary, model_document

HOLDOUT = {"dataset": "flights", "last": "14d"}
TESTS = {"command": ["pytest", "-q"], "source": {"directory": "."}}
PAIRED = {"metric": "roc_auc", "vs": "production", "margin": 0.03}


def live(story: Story, *gates: dict[str, Any], **spec: Any) -> None:
    """Version 1 answers; the gates are those given."""
    story.registry.papers = {"MODEL_CARD.md": "# Card\n## Intended use\nForecasts for the desk.\n## Limits\n"}
    story.apply(DATASET, model_document(environments=canary(), holdout=HOLDOUT, gates=list(gates), **spec))
    story.release(1)


def checked(story: Story, number: int) -> dict[str, Any]:
    if number not in story.registry.content:
        story.registry.add(number)
    asked = story.commands.check("default", "delay", number, "production", actor="ci")
    story.control.settle()
    with story.store.read() as tx:
        found = tx.operation(asked.key)
    assert found is not None
    return check_status(found)


def outcomes(check: dict[str, Any]) -> dict[str, str]:
    return {gate["gate"]: gate["outcome"] if gate["applies"] else "does not apply" for gate in check["gates"]}


def scrambled(story: Story, number: int) -> None:
    story.registry.add(number)
    story.commands.register("default", "delay", number, actor="ann")
    worse = story.digest(number)
    story.traffic.quality = lambda digest, _day: 0.0 if digest == worse else 1.0


def test_a_check_runs_tests_and_gates_records_them_and_leaves_nothing_running(story: Story) -> None:
    live(story, PAIRED, {"documented": ["MODEL_CARD.md#Intended use"]}, {"maxSizeMb": 1}, tests=TESTS)
    chapter = story.chapter
    check = checked(story, 2)
    assert (check["outcome"], check["because"]) == ("successful", "4 of 4 passed")
    assert outcomes(check) == snapshot(
        {
            "tests": "successful",
            "roc_auc paired, margin 0.03": "successful",
            "documented: MODEL_CARD.md#Intended use": "successful",
            "size at most 1 MB": "successful",
        }
    )
    assert story.told(since=chapter) == snapshot(["03-01 version.registered delay/2", "03-01 version.checked delay/2"])
    assert [r.environment for r in story.target.replicas] == ["production"], "the checked replica was stopped"
    assert story.router.weights() == {"1": 100.0}, "no request was ever meant for it"


def test_a_scrambled_version_fails_its_check_and_the_ledger_says_on_what_numbers(story: Story) -> None:
    live(story, PAIRED)
    scrambled(story, 2)
    chapter = story.chapter
    check = checked(story, 2)
    assert check["outcome"] == "failed"
    assert story.why(since=chapter) == snapshot(
        [
            "03-01 version.checked: 1 of 1 failed: roc_auc paired, margin 0.03: roc_auc: harm +0.3265 [+0.3167, +0.3364] a…"
        ]
    )


def test_tests_that_fail_fail_the_check_and_their_seconds_are_not_in_the_ledger(story: Story) -> None:
    live(story, PAIRED, tests=TESTS)
    story.trainer.tests_exit = 1
    chapter = story.chapter
    check = checked(story, 2)
    assert check["outcome"] == "failed"
    assert "after 0.1 s" in check["gates"][0]["because"]
    assert story.why(since=chapter)[-1].endswith(
        "1 of 2 failed: tests: the model's own tests failed, with this installation's libraries"
    )


@pytest.mark.parametrize("code", [2, 5])
def test_tests_that_could_not_run_were_not_judged(story: Story, code: int) -> None:
    live(story, PAIRED, tests=TESTS)
    story.trainer.tests_exit = code
    check = checked(story, 2)
    assert check["outcome"] == "error"
    assert f"could not run, with this installation's libraries: they ended with exit code {code}" in (check["because"])


def test_tests_run_in_the_environment_that_the_version_answers_in_and_the_verdict_names_it(story: Story) -> None:
    live(story, PAIRED, tests=TESTS)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    own = story.folder / "environments" / "0123456789abcdef" / "bin" / "python"
    story.target.interpreters[story.digest(2)] = own
    check = checked(story, 2)
    assert story.trainer.seen[-1].python == own
    assert check["gates"][0]["because"] == (
        "the model's own tests passed, in the version's own environment\nenvironment 0123456789ab"
    )


def test_tests_get_the_version_and_no_credentials(story: Story) -> None:
    live(story, PAIRED, tests=TESTS)
    checked(story, 2)
    job = story.trainer.seen[-1]
    assert set(job.environment) == {"STEERSMAN_MODEL_URL", "STEERSMAN_MODEL_FILES", "STEERSMAN_MODEL_VERSION"}
    assert str(job.readable[0]) == job.environment["STEERSMAN_MODEL_FILES"]
    assert job.timeout_s == 600


def test_nothing_declared_is_no_pass(story: Story) -> None:
    live(story)
    check = checked(story, 2)
    assert check["outcome"] == "inconclusive"
    assert check["because"].startswith("nothing was judged")


def test_a_version_that_does_not_start_was_not_judged(story: Story) -> None:
    live(story, PAIRED)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    story.target.broken.add(story.digest(2))
    check = checked(story, 2)
    assert check["outcome"] == "error"
    assert "it exits at once" in check["because"]
    assert story.told()[-1] == "03-01 version.checked delay/2"


def test_a_second_request_joins_the_check_that_is_on_its_way(story: Story) -> None:
    live(story, PAIRED)
    story.registry.add(2)
    first, second = (story.commands.check("default", "delay", 2, "production", actor="ci") for _ in range(2))
    assert first.key == second.key
    with pytest.raises(NotFound, match="declares no environment 'moon'"):
        story.commands.check("default", "delay", 2, "moon", actor="ci")


def test_a_release_after_a_check_asks_no_worker_again(story: Story) -> None:
    live(story, PAIRED, {"metric": "roc_auc", "floor": 0.55})
    checked(story, 2)
    asked = story.scorer.asked
    release = story.release(2)
    assert release.phase is Phase.PROGRESSING
    assert story.scorer.asked == asked
    story.days(1)
    checked(story, 2)
    assert story.scorer.asked == asked + 2, "another holdout: both versions are asked anew"


def test_what_a_check_found_stays_with_the_version_and_names_its_rows(story: Story) -> None:
    live(story, PAIRED)
    checked(story, 2)
    with story.store.read() as tx:
        version = tx.version("default", "delay", 2)
        assert version is not None
        kept = tx.verdicts(subject_of(version))
        assert [c["check"] for c in checks_of(tx, "default", "delay", 2)] == [1]
    assert [(v.kind, v.body["outcome"], v.body["data"][:7]) for v in kept] == [("check", "successful", "sha256:")]


def test_a_release_shows_what_the_check_of_its_bytes_found(story: Story) -> None:
    live(story, PAIRED, tests=TESTS)
    checked(story, 2)
    checked(story, 2)
    release = story.release(2)
    with story.store.read() as tx:
        shown = release_status(tx, story.world_documents, release, now=story.clock.now())["checks"]
    assert [(v["step"], v["body"]["name"], v["body"]["outcome"]) for v in shown] == [
        (2, "tests", "successful"),
        (2, "roc_auc paired, margin 0.03", "successful"),
    ]


def test_a_check_survives_the_control_server(story: Story) -> None:
    live(story, PAIRED)
    story.registry.add(2)
    asked = story.commands.check("default", "delay", 2, "production", actor="ci")
    story.control.reconciler.turn()
    again = story.restart()
    again.control.settle()
    with again.store.read() as tx:
        found = tx.operation(asked.key)
    assert found is not None
    assert check_status(found)["outcome"] == "successful"
    assert {r.environment for r in again.target.replicas} != {CHECKS}


# --- gates of a release


def test_a_candidate_worse_in_one_segment_only_is_stopped_and_the_segment_named(story: Story) -> None:
    live(story, {**PAIRED, "margin": 0.2, "slices": ["x"], "sliceRowsMin": 300})
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    candidate = story.digest(2)
    inputs = story.datasets.read
    honest = story.scorer.score

    def segments(path: Any, columns: Any) -> Any:
        found = dict(inputs(path, columns))
        return {name: _origin(values) if name == "x" else values for name, values in found.items()}

    def worse_from_ewr(address: str, model: str, rows: Any, columns: Any) -> Any:
        scores = honest(address, model, rows, columns)
        digest = next(r.digest for r in story.target.replicas if r.address == address)
        if digest != candidate:
            return scores
        ewr = segments(rows, ["x"])["x"] == "EWR"
        return [0.5 if there else score for score, there in zip(scores, ewr, strict=True)]

    story.datasets.read, story.scorer.score = segments, worse_from_ewr  # type: ignore[method-assign]
    release = story.release(2)
    assert release.completion is Completion.ABORTED
    assert "; failed: x=EWR: roc_auc: harm +0." in release.because
    assert "x=JFK" not in release.because
    assert "below the margin 0.2" in release.because, "over all rows it would have passed"


def _origin(values: Any) -> Any:
    import numpy as np

    return np.where(np.arange(len(values)) % 8 == 0, "EWR", "JFK")


def test_an_added_optional_input_passes_where_additions_are_allowed(story: Story) -> None:
    live(story, {"schema": "additive"})
    story.registry.signature += (Column(name="gust", type="FP64", required=False),)
    assert story.release(2).phase is Phase.PROGRESSING


def test_an_input_that_is_gone_is_named(story: Story) -> None:
    live(story, {"schema": "additive"})
    story.registry.signature = (Column(name="y", type="FP64"),)
    release = story.release(2)
    assert release.because == snapshot(
        "gate failed: schema additive: differs from production's version 1: input x is gone; input y (FP64) is new and required"
    )


def test_in_a_replay_latency_is_kept_and_neither_decides_nor_enters_the_ledger(story: Story) -> None:
    live(story, PAIRED, {"maxLatency": "1ms"})
    release = story.release(2)
    assert release.phase is Phase.PROGRESSING
    with story.store.read() as tx:
        kept = {v.body["name"]: v.body["because"] for v in tx.verdicts(release.id, "gate")}
    assert kept["p99 latency at most 1 ms"].startswith("p99 3.98 ms")
    gated = next(line for line in story.why() if "release.gated" in line and "harm" in line)
    assert "3.98" not in "".join(story.why())
    assert gated
