"""Somebody moves an alias past the guard. Serving never followed it; it is found, recorded, and put back."""

from inline_snapshot import snapshot

from steersman.testing.story import Story, canary, model_document


def test_a_champion_moved_by_hand_is_found_recorded_and_put_back(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    story.registry.add(2)
    chapter = story.chapter

    story.registry.set_alias("delay", "champion", 2)
    story.days(1)

    assert story.router.weights() == {"1": 100.0}
    assert story.registry.alias == {"champion": 1}
    assert story.why(since=chapter) == snapshot(
        ["03-02 manual_change.observed: champion pointed to 2 instead of version 1; serving never followed it"]
    )


def test_a_champion_taken_away_is_found_too_and_each_time_it_is_recorded(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    for _ in range(2):
        story.registry.set_alias("delay", "champion", None)
        story.days(1)
    assert story.registry.alias == {"champion": 1}
    assert sum("manual_change.observed" in line for line in story.told()) == 2


def test_aliases_of_others_are_nobody_s_business_here(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    chapter = story.chapter
    story.registry.set_alias("delay", "experiment", 1)
    story.days(1)
    assert story.told(since=chapter) == []
