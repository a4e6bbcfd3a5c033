"""An approval is one person's, by a role, for one thing as it was: it ends when that changes, and its giver may take it back."""

from typing import Any

import pytest
from inline_snapshot import snapshot

from steersman.domain.access import Grant, Role
from steersman.domain.credentials import UserRow
from steersman.domain.errors import Conflict
from steersman.domain.release import Completion, Phase, Release
from steersman.testing.story import Story, canary, model_document

FAIR = [{"startsAt": "2013-03-01T00:00:00Z", "endsAt": "2013-03-08T00:00:00Z", "reason": "fair"}]


def asked(story: Story, *, tier: int = 2, **policy: Any) -> Release:
    story.apply(model_document(tier=tier, environments=canary(onInconclusive="pause", **policy)))
    return story.release(1)


def agree(story: Story, release: Release, who: str, *roles: str) -> Release:
    story.commands.approve(release.id, actor=who, because="read and understood", roles=roles or ("approver",))
    story.control.settle()
    return story.reread(release)


def test_each_role_takes_a_person_of_its_own(story: Story) -> None:
    release = asked(story, approvals={"required": 2, "roles": ["approver", "validator"]})
    assert release.because == "waits for 2 more approvals by role approver and validator"
    agree(story, release, "bob")
    assert agree(story, release, "carol").phase is Phase.PAUSED
    assert agree(story, release, "vera", "validator").phase is Phase.VERIFYING


def test_who_has_both_roles_stands_in_for_one_of_them(story: Story) -> None:
    release = asked(story, approvals={"required": 2, "roles": ["approver", "validator"]})
    assert agree(story, release, "vera", "approver", "validator").phase is Phase.PAUSED
    assert agree(story, release, "bob").phase is Phase.VERIFYING


def test_a_step_can_ask_for_a_validator(story: Story) -> None:
    steps = [{"approval": {"role": "validator"}}, {"setWeight": 100}, {"promote": {}}]
    story.apply(model_document(environments={"production": {"strategy": {"canary": {"steps": steps}}}}))
    release = story.release(1)
    assert agree(story, release, "bob").because == "waits for 1 more approval by role validator"
    assert agree(story, release, "vera", "validator").completion is Completion.PROMOTED


def test_an_approval_can_be_taken_back_while_nothing_rests_on_it(story: Story) -> None:
    release = asked(story, freeze=FAIR)
    agree(story, release, "bob")
    story.commands.withdraw(release.id, actor="bob", because="I read the wrong report")
    story.days(7)
    assert story.reread(release).phase is Phase.PAUSED

    assert agree(story, release, "bob").phase is Phase.VERIFYING
    with pytest.raises(Conflict, match="no approval of bob counts for release 1 now"):
        story.commands.withdraw(release.id, actor="bob", because="again")


def test_who_loses_the_role_before_the_release_goes_on_has_agreed_to_nothing(story: Story) -> None:
    def grant(*roles: Role) -> None:
        with story.store.write() as tx:
            grants = tuple(Grant(role=role, workspace="default") for role in roles)
            tx.credentials.put_user(UserRow(subject="bob", grants=grants, created_at=story.clock.now()))

    release = asked(story, freeze=FAIR)
    grant(Role.APPROVER)
    agree(story, release, "bob")
    grant(Role.VIEWER)
    story.days(7)
    waiting = story.reread(release)
    assert (waiting.phase, waiting.because) == (Phase.PAUSED, "waits for 1 more approval by role approver")
    grant(Role.APPROVER, Role.ADMIN)
    story.control.settle()
    assert story.reread(release).phase is Phase.PAUSED, "an admin approves nothing"
    grant(Role.APPROVER)
    story.control.settle()
    assert story.reread(release).phase is Phase.VERIFYING
    grant(Role.VIEWER)
    story.control.settle()
    assert story.reread(release).phase is Phase.VERIFYING, "what went on is not undone"


def test_a_new_revision_of_the_document_ends_what_was_agreed_to_before(story: Story) -> None:
    release = asked(story, freeze=FAIR)
    agree(story, release, "bob")
    chapter = story.chapter
    story.apply(model_document(tier=2, environments=canary(onInconclusive="pause", freeze=FAIR, guardrails=[])))
    story.days(7)
    assert story.reread(release).phase is Phase.PAUSED
    assert story.why(since=chapter) == snapshot(
        [
            "03-01 document.applied: revision 2 of Model delay",
            "03-01 release.approval_withdrawn: the approval of bob counts no longer: the model's document has a new revisi…",
            "03-08 release.paused: waits for 1 more approval by role approver",
        ]
    )
    assert agree(story, release, "bob").phase is Phase.VERIFYING


def test_an_approval_ends_when_the_version_it_is_compared_with_changes(story: Story) -> None:
    first = asked(story)
    agree(story, first, "bob")
    second = story.release(2)
    agree(story, second, "bob")
    third = story.release(3)
    agree(story, third, "bob")
    chapter = story.chapter

    story.commands.promote(second.id, actor="dan", because="hurry", full=True)
    story.commands.waive("default", "delay", 2, "production", skip="1", actor="carol", because="case 7")
    story.control.settle()

    assert story.reread(second).phase is Phase.VERIFYING
    waiting = story.reread(third)
    assert waiting.previous is not None
    assert (waiting.phase, waiting.previous.version) == (Phase.PAUSED, 2)
    assert [line for line in story.why(since=chapter) if "approval" in line] == snapshot(
        [
            "03-01 release.approval_withdrawn: the approval of bob counts no longer: the version it is compared with chang…",
            "03-01 release.paused: waits for 1 more approval by role approver",
        ]
    )
    assert agree(story, third, "bob").phase is Phase.PROGRESSING


def test_there_is_nothing_to_agree_to_once_it_is_promoted(story: Story) -> None:
    release = asked(story)
    agree(story, release, "bob")
    with pytest.raises(Conflict, match="is Verifying; there is nothing left to agree to"):
        story.commands.approve(release.id, actor="carol", because="me too")
