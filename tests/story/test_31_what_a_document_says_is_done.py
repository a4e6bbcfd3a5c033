"""No field of a document is read and then forgotten: what these say is seen in what happens, or refused when it is applied."""

from typing import Any

import pytest

from steersman.domain.errors import BadDocument
from steersman.testing.story import Story, canary, model_document


def environment(mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "steersman/v1",
        "kind": "Environment",
        "metadata": {"name": "production"},
        "spec": {"mode": mode},
    }


def labels_come_too_late() -> dict[str, Any]:
    return model_document(environments=canary(), groundTruth={"column": "late", "horizon": "30d"})


def test_a_document_that_cannot_come_true_is_not_applied(story: Story) -> None:
    with pytest.raises(BadDocument, match="horizon is beyond maxDuration"):
        story.apply(labels_come_too_late())
    with pytest.raises(BadDocument) as refused:
        story.commands.apply([labels_come_too_late()], actor="ann", dry_run=True)
    assert "mode: warn" in refused.value.next_step
    assert story.told() == []


def test_an_environment_may_say_that_such_errors_are_only_shown(story: Story) -> None:
    results = story.commands.apply([environment("warn"), labels_come_too_late()], actor="ann")
    assert [finding["level"] for finding in results[1]["findings"]] == ["error"]
    assert story.commands.apply([labels_come_too_late()], actor="ann")[0]["outcome"] == "unchanged"


def test_an_environment_may_ask_for_no_advice(story: Story) -> None:
    results = story.commands.apply([environment("off"), labels_come_too_late()], actor="ann")
    assert results[1]["findings"] == []


def test_a_step_the_target_cannot_do_is_refused(story: Story) -> None:
    story.target.capabilities = frozenset({"setWeight", "keepWarm"})
    with pytest.raises(BadDocument, match="the environment's target cannot mirror"):
        story.apply(model_document(environments=canary()))
