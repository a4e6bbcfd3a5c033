"""The inference log forgets: by itself what is older than the model's retention, and one entity when a person asks."""

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import BadRequest, Conflict, NotFound, Unavailable
from steersman.ledger.entry import parse_entry
from steersman.ports import LogError, Removed
from steersman.testing.story import Story, model_document

FORGETS = model_document(serving={"stickyBy": "account"}, inferenceLog={"retention": "30d"})


def test_once_a_day_what_is_older_than_the_retention_goes_and_the_ledger_says_so(story: Story) -> None:
    story.apply(FORGETS)
    chapter = story.chapter
    story.days(2)
    story.control.settle()
    assert story.why(since=chapter) == snapshot(
        [
            "03-02 log.expired: older than 30d: all rows before 2013-01-31, and their files",
            "03-03 log.expired: older than 30d: all rows before 2013-02-01, and their files",
        ]
    )


def test_without_a_retention_nothing_is_ever_deleted(story: Story) -> None:
    story.apply(model_document())
    story.days(60)
    assert story.traffic.expired == {}


def test_a_crash_between_deleting_and_recording_deletes_again_under_the_same_key(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.apply(FORGETS)
    asked: list[str] = []
    expire = story.traffic.expire

    def dies_after(key: str, *place: str, **until: object) -> Removed:
        asked.append(key)
        done = expire(key, *place, **until)  # type: ignore[arg-type]
        if len(asked) == 1:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(story.traffic, "expire", dies_after)
    chapter = story.chapter
    with pytest.raises(KeyboardInterrupt):
        story.control.settle()
    again = story.restart()
    again.control.settle()
    assert asked == ["default/delay/2013-01-30"] * 2
    assert [line.split(":")[0] for line in again.why(since=chapter)] == ["03-01 log.expired"]


def test_a_log_that_cannot_be_cleared_now_is_cleared_later(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.apply(FORGETS)

    def away(*_: object, **__: object) -> Removed:
        raise LogError("the committer does not answer")

    monkeypatch.setattr(story.traffic, "expire", away)
    with pytest.raises(Unavailable, match="could not be cleared of old rows: the committer"):
        story.control.settle()
    monkeypatch.undo()
    story.control.settle()
    assert list(story.traffic.expired) == ["default/delay/2013-01-30"]


def test_an_erasure_is_asked_for_and_done_and_names_nobody(story: Story) -> None:
    story.apply(FORGETS)
    story.control.settle()
    chapter = story.chapter
    removed = story.commands.erase("default", "delay", "ada-4711", actor="bob", because="case 17")
    assert (removed.predictions, removed.labels) == (1, 1)
    assert story.traffic.erased == ["ada-4711"]
    assert story.why(since=chapter) == snapshot(["03-01 log.erasure_requested: case 17", "03-01 log.erased: case 17"])
    with story.store.read() as tx:
        bodies = [row.body for row in tx.ledger.rows(0)]
    assert parse_entry(bodies[-1]).data == snapshot({"labels": 1, "predictions": 1, "segments": 0})
    assert all(b"ada-4711" not in body for body in bodies)


def test_an_erasure_that_fails_is_recorded_as_asked_for_only(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.apply(FORGETS)

    def away(*_: object, **__: object) -> Removed:
        raise LogError("the committer does not answer")

    monkeypatch.setattr(story.traffic, "erase", away)
    chapter = story.chapter
    with pytest.raises(Unavailable, match="did not get to its end"):
        story.commands.erase("default", "delay", "ada-4711", actor="bob", because="case 17")
    assert [line.split(":")[0] for line in story.why(since=chapter)] == ["03-01 log.erasure_requested"]


def test_what_cannot_be_erased_is_refused_before_anything_is_recorded(story: Story) -> None:
    story.apply(FORGETS)
    chapter = story.chapter
    with pytest.raises(BadRequest, match="the reason names the entity"):
        story.commands.erase("default", "delay", "ada-4711", actor="bob", because="ada-4711 asked")
    with pytest.raises(BadRequest, match="a reason is required"):
        story.commands.erase("default", "delay", "ada-4711", actor="bob", because=" ")
    with pytest.raises(BadRequest, match="no entity"):
        story.commands.erase("default", "delay", "", actor="bob", because="case 17")
    with pytest.raises(NotFound):
        story.commands.erase("default", "nothing", "ada-4711", actor="bob", because="case 17")
    story.apply(model_document())
    chapter = story.chapter
    with pytest.raises(Conflict, match=r"its document has no serving\.stickyBy"):
        story.commands.erase("default", "delay", "ada-4711", actor="bob", because="case 17")
    assert story.chapter == chapter
