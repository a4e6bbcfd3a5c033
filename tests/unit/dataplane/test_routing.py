"""Who answers a row: sticky, monotone while a release ramps, and rejoined as if nothing had been split."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.dataplane.protocol import EnvelopeError, Tensor
from steersman.dataplane.routing import Splitter, bucket_of, entity_text, rejoin, take

ENTITIES = [f"passenger-{number}" for number in range(20_000)]


def test_a_weight_is_met_within_the_error_of_sampling() -> None:
    stable, candidate = Splitter("salt", 10.0).rows(ENTITIES)
    assert len(stable) + len(candidate) == len(ENTITIES)
    assert abs(len(candidate) / len(ENTITIES) - 0.10) < 0.01


@given(st.lists(st.text(max_size=20), max_size=50), st.floats(0, 100), st.floats(0, 100))
def test_raising_the_weight_never_takes_an_entity_back_from_the_candidate(
    entities: list[str], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert set(Splitter("salt", low).rows(entities)[1]) <= set(Splitter("salt", high).rows(entities)[1])


def test_the_whole_range_of_weights_is_reached() -> None:
    assert Splitter("salt", 0).rows(ENTITIES)[1] == []
    assert Splitter("salt", 100).rows(ENTITIES)[0] == []


def test_another_salt_draws_other_entities() -> None:
    first = {ENTITIES[row] for row in Splitter("release-1", 10).rows(ENTITIES)[1]}
    second = {ENTITIES[row] for row in Splitter("release-2", 10).rows(ENTITIES)[1]}
    assert len(first & second) < 0.2 * len(first)


def test_the_bucket_of_an_entity_never_changes_between_versions_of_this_code() -> None:
    assert [bucket_of("salt", entity) for entity in ("AA1", "UA2", "é")] == [4680, 694, 746]
    assert all(
        Splitter("salt", 50).is_candidate(entity) == (bucket_of("salt", entity) < 5_000) for entity in ENTITIES[:100]
    )


def test_a_number_and_its_text_are_one_entity() -> None:
    assert entity_text(7) == entity_text("7")
    assert entity_text(True) == "true"


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=1, max_size=30), st.sampled_from([1, 3]))
def test_splitting_and_rejoining_gives_the_batch_as_it_would_have_been_answered_whole(
    rows: list[tuple[bool, int]], width: int
) -> None:
    def model(inputs: list[Tensor]) -> list[Tensor]:
        values = [value * 10 + column for value in inputs[0].data for column in range(width)]
        shape = [len(inputs[0].data), width] if width > 1 else [len(inputs[0].data)]
        return [Tensor("score", "INT64", shape, values)]

    batch = [Tensor("x", "INT64", [len(rows)], [value for _, value in rows])]
    parts = [[i for i, (side, _) in enumerate(rows) if side is want] for want in (True, False)]
    answered = [(part, model(take(batch, part))) for part in parts if part]
    assert rejoin(answered, len(rows)) == model(batch)


def test_an_output_one_variant_lacks_is_null_in_its_rows() -> None:
    score = Tensor("score", "FP64", [1], [0.5])
    more = Tensor("more", "FP64", [1], [1.0])
    joined = rejoin([([1], [score]), ([0], [score, more])], 2)
    assert [(tensor.name, tensor.data) for tensor in joined] == [("score", [0.5, 0.5]), ("more", [1.0, None])]


def test_an_answer_of_the_wrong_length_is_refused() -> None:
    try:
        rejoin([([0, 1], [Tensor("score", "FP64", [3], [1.0, 2.0, 3.0])])], 2)
    except EnvelopeError as error:
        assert "3 values for 2 rows" in str(error)  # noqa: PT017 - the message is what is tested
    else:
        raise AssertionError
