"""An error raised by the server arrives at the caller as the same class with the same words."""

from __future__ import annotations

import pytest

from steersman.domain import errors


@pytest.mark.parametrize("cls", [cls for cls in errors.tree() if cls is not errors.BadDocument])
def test_an_error_arrives_as_it_was_sent(cls: type[errors.SteersmanError]) -> None:
    sent = cls("something is so", next_step="do this")
    got = errors.from_wire(cls.status, sent.to_wire())
    assert (type(got), got.message, got.next_step) == (cls, "something is so", "do this")


def test_the_problems_of_a_document_arrive_one_by_one() -> None:
    sent = errors.BadDocument([errors.Problem(path="spec", message="tier is required")], source="model.yaml")
    got = errors.from_wire(422, sent.to_wire())
    assert isinstance(got, errors.BadDocument)
    assert got.problems == sent.problems
    assert str(got) == "model.yaml: spec: tier is required"


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (401, errors.NotAuthenticated),
        (403, errors.NotAllowed),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (418, errors.BadRequest),
        (500, errors.SteersmanError),
        (502, errors.Unavailable),
        (503, errors.Unavailable),
    ],
)
def test_an_answer_in_a_foreign_form_becomes_the_class_of_its_status(status: int, cls: type) -> None:
    assert type(errors.from_wire(status, "<html>")) is cls


def test_every_class_has_its_own_code() -> None:
    codes = [cls.code for cls in errors.tree()]
    assert len(codes) == len(set(codes))
