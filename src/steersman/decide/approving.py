"""Whose agreement a release needs, and whether it has it: by number and role, never the author, only for what they saw.

Nothing is remembered here. An approval is a row with what it is bound to (`domain.approval.Binding`); it counts while that
is unchanged, until it expires, and at the one step it was given for, so it is never used twice.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from steersman.domain import spec
from steersman.domain.access import ROLE_PERMISSIONS, Permission, Role
from steersman.domain.approval import Binding
from steersman.domain.linting import UNAPPROVED

APPROVALS_OF_TIER = {2: 1, 3: 2}
"""Fewest people who must agree, by tier, whatever the document says; in dev and staging only what it says."""

if any(Permission.RELEASE_APPROVE not in ROLE_PERMISSIONS[Role(role)] for role in spec.ApproverRole):
    raise ImportError("a role that a document may ask for cannot approve: steersman.domain.access")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """So many people, and among them one of their own for each role."""

    count: int
    roles: tuple[str, ...]
    expires: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One person's approval, with the roles by which they gave it and which they still have; without one it counts no
    longer. `bound` is None where it was not kept, in rows of 0.1."""

    actor: str
    roles: frozenset[str]
    at: datetime
    bound: Binding | None
    withdrawn: bool = False


def approvals_required(
    policy: spec.EnvironmentPolicy, tier: int, *, environment: str, outside: bool = False, hotfix: bool = False
) -> int:
    """How many people must agree before the first step: what the document says, at least one from tier 2, two at tier 3,
    except in `UNAPPROVED` environments, where nobody outside of the team is answered.

    `outside`: the release is an automatic one beyond its envelope, and somebody must agree whatever the tier. `hotfix`: it
    passes freezes, which takes one person more.
    """
    declared = policy.approvals.required if policy.approvals else 0
    least = 0 if environment in UNAPPROVED else APPROVALS_OF_TIER.get(tier, 0)
    return max(declared, least, int(outside)) + int(hotfix)


def demanded_at_start(
    policy: spec.EnvironmentPolicy, tier: int, *, environment: str, outside: bool, hotfix: bool
) -> Demand:
    """Who must agree before the first step."""
    approvals = policy.approvals or spec.Approvals()
    count = approvals_required(policy, tier, environment=environment, outside=outside, hotfix=hotfix)
    return Demand(count=count, roles=tuple(approvals.roles) if count else (), expires=approvals.expires)


def demanded_by(step: spec.Approval, policy: spec.EnvironmentPolicy) -> Demand:
    """Who must agree at an approval step: `count` people, all of them by its role."""
    expires = (policy.approvals or spec.Approvals()).expires
    return Demand(count=step.count, roles=(step.role,) * step.count, expires=expires)


def counting(
    agreements: Iterable[Agreement], *, binding: Binding, authors: Collection[str], expires: timedelta, now: datetime
) -> tuple[Agreement, ...]:
    """The agreements that count now, one a person, by name. `authors` opened the release or made the version."""
    valid = {
        agreement.actor: agreement
        for agreement in agreements
        if agreement.bound is not None
        and agreement.bound.changed(binding) is None
        and agreement.roles
        and not agreement.withdrawn
        and agreement.actor not in authors
        and agreement.at <= now <= agreement.at + expires
    }
    return tuple(valid[actor] for actor in sorted(valid))


def lacking(demand: Demand, agreed: Sequence[Agreement]) -> str | None:
    """What is still waited for, in words; None when the demand is met.

    Each role must be held by a person of their own: somebody with two roles stands in for one of them.
    """
    count, roles = missing(demand, agreed)
    more = f"{count} more approval{'' if count == 1 else 's'}"
    return f"waits for {more} by role {' and '.join(roles)}" if count else None


def missing(demand: Demand, agreed: Sequence[Agreement]) -> tuple[int, tuple[str, ...]]:
    """How many people must still agree, and by which roles."""
    filled = _filled(demand.roles, agreed)
    open_roles = [role for index, role in enumerate(demand.roles) if index not in filled]
    count = max(demand.count - len(agreed), len(open_roles), 0)
    return count, tuple(dict.fromkeys(open_roles or demand.roles))


def _filled(roles: Sequence[str], agreed: Sequence[Agreement]) -> set[int]:
    """Indices of the roles that a largest assignment of people to roles fills (augmenting paths, Kuhn 1955)."""
    holder: dict[int, int] = {}

    def place(person: int, tried: set[int]) -> bool:
        for index, role in enumerate(roles):
            if role in agreed[person].roles and index not in tried:
                tried.add(index)
                if index not in holder or place(holder[index], tried):
                    holder[index] = person
                    return True
        return False

    for person in range(len(agreed)):
        place(person, set())
    return set(holder)
