"""The end of a version: drained, never released again, and only when nothing depends on it any more."""

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import Conflict
from steersman.testing.story import Story, canary, model_document


def two_versions(story: Story) -> None:
    """Version 2 took over from version 1 on 1 March and is still being verified; version 1 is kept warm."""
    story.apply(model_document(environments=canary(), serving={"replicas": 1, "keepWarm": 1}))
    story.release(1)
    release = story.release(2)
    story.commands.promote(release.id, actor="ann", because="quick start", full=True)
    story.control.settle()


def test_what_answers_or_may_be_needed_in_a_moment_is_not_retired(story: Story) -> None:
    two_versions(story)
    for number in (1, 2):
        with pytest.raises(Conflict, match=f"version {number} of delay is in use in production"):
            story.commands.retire("default", "delay", number, actor="bob", because="old")


def test_a_retired_version_is_drained_and_cannot_come_back(story: Story) -> None:
    two_versions(story)
    story.days(20)
    assert len(story.target.replicas) == 2
    chapter = story.chapter

    story.commands.retire("default", "delay", 1, actor="bob", because="its features are gone")
    story.control.settle()

    assert [r.digest for r in story.target.replicas] == [story.digest(2)]
    assert story.why(since=chapter) == snapshot(["03-21 version.retired: its features are gone"])
    with pytest.raises(Conflict, match="version 1 was retired: its features are gone"):
        story.release(1)
    with pytest.raises(Conflict, match="no version of delay before version 2 to go back to"):
        story.commands.rollback("default", "delay", "production", actor="bob", because="worse")
