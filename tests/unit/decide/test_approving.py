"""Who must agree and whose agreement counts: against brute force over every assignment of people to roles."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.approving import (
    Agreement,
    Demand,
    approvals_required,
    counting,
    demanded_at_start,
    demanded_by,
    lacking,
)
from steersman.domain import spec
from steersman.domain.approval import Binding

NOW = datetime(2013, 3, 10, tzinfo=UTC)
WEEK = timedelta(days=7)
BOUND = Binding(
    step=-1, environment="production", digest="sha256:2", document="sha256:d", declared="sha256:d", previous="sha256:1"
)
ROLES = ("approver", "validator")


def agreement(actor: str = "bob", *roles: str, at: datetime = NOW, bound: Binding | None = BOUND) -> Agreement:
    return Agreement(actor=actor, roles=frozenset(roles or ("approver",)), at=at, bound=bound)


def counted(*agreements: Agreement, now: datetime = NOW) -> list[str]:
    valid = counting(agreements, binding=BOUND, authors=("ann", "trainer"), expires=WEEK, now=now)
    return [one.actor for one in valid]


@pytest.mark.parametrize(
    ("tier", "declared", "required"), [(0, None, 0), (1, None, 0), (2, None, 1), (3, None, 2), (1, 3, 3), (3, 1, 2)]
)
def test_tiers_demand_at_least_their_approvals_and_a_hotfix_one_more(
    tier: int, declared: int | None, required: int
) -> None:
    policy = spec.EnvironmentPolicy(approvals=None if declared is None else spec.Approvals(required=declared))
    assert approvals_required(policy, tier, environment="production") == required
    assert approvals_required(policy, tier, environment="production", hotfix=True) == required + 1
    assert approvals_required(policy, tier, environment="production", outside=True) == max(required, 1)


def test_who_has_lost_the_role_agrees_no_longer() -> None:
    assert counted(replace(agreement("bob"), roles=frozenset())) == []


def test_where_nobody_must_agree_no_role_is_waited_for() -> None:
    demand = demanded_at_start(spec.EnvironmentPolicy(), 1, environment="production", outside=False, hotfix=False)
    assert lacking(demand, ()) is None


def test_an_approval_step_takes_its_number_of_people_by_its_role() -> None:
    step = spec.Approval(role=spec.ApproverRole.VALIDATOR, count=2)
    demand = demanded_by(step, spec.EnvironmentPolicy())
    assert lacking(demand, (agreement("bob"), agreement("vera", "validator"))) == (
        "waits for 1 more approval by role validator"
    )
    assert lacking(demand, (agreement("vera", "validator"), agreement("vic", "validator"))) is None


@pytest.mark.parametrize("name", msgspec.structs.asdict(BOUND))
def test_whatever_it_is_bound_to_changes_the_approval_counts_no_longer(name: str) -> None:
    other = -2 if name == "step" else "another"
    assert counted(agreement()) == ["bob"]
    assert counted(agreement(bound=msgspec.structs.replace(BOUND, **{name: other}))) == []
    assert BOUND.changed(msgspec.structs.replace(BOUND, **{name: other})) is not None


def test_what_is_withdrawn_expired_unbound_from_tomorrow_or_an_author_s_does_not_count() -> None:
    assert counted(replace(agreement(), withdrawn=True)) == []
    assert counted(agreement(), now=NOW + WEEK) == ["bob"]
    assert counted(agreement(), now=NOW + WEEK + timedelta(seconds=1)) == []
    assert counted(agreement(at=NOW + timedelta(days=1))) == []
    assert counted(agreement(bound=None)) == []
    assert counted(agreement("ann"), agreement("trainer"), agreement("bob")) == ["bob"]


def test_one_person_counts_once() -> None:
    assert counted(agreement("bob"), agreement("bob", "validator")) == ["bob"]


people = st.lists(st.sets(st.sampled_from(ROLES), max_size=2).map(frozenset), max_size=5).map(
    lambda held: [Agreement(actor=f"p{i}", roles=roles, at=NOW, bound=BOUND) for i, roles in enumerate(held)]
)


def met(count: int, roles: Sequence[str], agreed: Sequence[Agreement]) -> bool:
    """By trying everything: enough people, and some choice of different people holds the roles one by one."""
    fits = any(
        all(role in who.roles for role, who in zip(roles, chosen, strict=True))
        for chosen in permutations(agreed, len(roles))
    )
    return len(agreed) >= count and fits


@given(agreed=people, count=st.integers(0, 4), roles=st.lists(st.sampled_from(ROLES), max_size=4))
def test_a_demand_is_met_exactly_when_some_assignment_of_people_to_roles_meets_it(
    agreed: list[Agreement], count: int, roles: list[str]
) -> None:
    demand = Demand(count=count, roles=tuple(roles), expires=WEEK)
    assert (lacking(demand, agreed) is None) == met(count, roles, agreed)


@given(agreed=people, count=st.integers(0, 4), roles=st.lists(st.sampled_from(ROLES), max_size=3))
def test_one_more_person_never_undoes_what_was_met(agreed: list[Agreement], count: int, roles: list[str]) -> None:
    demand = Demand(count=count, roles=tuple(roles), expires=WEEK)
    more = [*agreed, agreement("somebody else")]
    if lacking(demand, agreed) is None:
        assert lacking(demand, more) is None
