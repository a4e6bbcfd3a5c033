"""Who should answer, and what should run: a pure function of the releases of one model in one environment.

Nothing here remembers: after a crash the same releases give the same traffic. Serving never follows an alias or a
registry; it follows the newest promoted release that was not taken back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from steersman.decide.steps import steps_of
from steersman.domain import spec
from steersman.domain.release import Arm, Opened, Phase, Release
from steersman.domain.traffic import Challenger, Mirror, Traffic

PolicyOf = Callable[[Release], spec.EnvironmentPolicy]
"""The policy a release was opened under: the document revision it names, not the newest one."""


def promoted(releases: Sequence[Release]) -> list[Release]:
    """Releases whose version was made stable and not taken back, oldest promotion first.

    A rollback takes back what was promoted after the version it brings back, and stands for that version from then on:
    a second rollback goes one further, not to the version the first one left.
    """
    kept = [r for r in releases if r.promoted_at is not None and r.degraded_at is None]
    standing: list[Release] = []
    for release in sorted(kept, key=lambda r: (r.promoted_at, r.number)):
        if release.opened is Opened.ROLLBACK:
            same = [index for index, r in enumerate(standing) if r.digest == release.digest]
            standing = standing[: same[-1]] if same else standing
        standing.append(release)
    return standing


def live(releases: Sequence[Release]) -> Release | None:
    """The release whose version answers by default."""
    standing = promoted(releases)
    return standing[-1] if standing else None


def proof_of(releases: Sequence[Release], digest: str) -> Release | None:
    """The newest release of one environment that proves a version for the next one: it stood its bake and label horizon,
    and was not taken back by a rollback since.
    """
    if digest not in {r.digest for r in promoted(releases)}:
        return None
    stood = [r for r in releases if r.digest == digest and r.verified_at is not None]
    return max(stood, key=lambda r: r.number, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Three things that are easily confused, kept apart for one environment.

    `desired`: the release people or a remedy asked for last. `effective`: the one whose version answers. `last_good`: the
    newest one that stood its bake and was not taken back since. `held` says why desired and effective differ although
    nothing is on its way: what was asked for did not stand, and what answers stays until the next release.
    """

    desired: Release | None
    effective: Release | None
    last_good: Release | None
    held: str | None


def standing_of(releases: Sequence[Release]) -> Standing:
    """Where one environment stands; nothing is forgotten by an abort: what was asked for stays on record as it was."""
    desired = max(releases, key=lambda r: r.number, default=None)
    kept = promoted(releases)
    effective = kept[-1] if kept else None
    stood = {r.digest for r in releases if r.verified_at is not None}
    good = [r for r in kept if r.digest in stood]
    held = None
    if desired is not None and desired.completion is not None and desired is not effective:
        answers = f"version {effective.version} answers" if effective else "no version answers"
        held = (
            f"release {desired.number} (version {desired.version}) ended {desired.completion}: {answers} until another "
            "release"
        )
    return Standing(desired=desired, effective=effective, last_good=good[-1] if good else None, held=held)


def live_at(releases: Sequence[Release], moment: datetime) -> Release | None:
    """The release that was live at `moment`: promoted by then, and not yet taken back by then."""
    standing = [
        r
        for r in releases
        if r.promoted_at is not None and r.promoted_at <= moment and (r.degraded_at is None or r.degraded_at > moment)
    ]
    return max(standing, key=lambda r: (r.promoted_at, r.number), default=None)


def in_progress(releases: Sequence[Release]) -> Release | None:
    """The only release that may move traffic: a rollback, which waits for nobody, else the oldest on its way."""
    active = [r for r in releases if r.active]
    undoing = [r for r in active if r.opened is Opened.ROLLBACK and r.phase is not Phase.DEGRADED]
    return max(undoing, key=lambda r: r.number) if undoing else min(active, key=lambda r: r.number, default=None)


def answering_beside(releases: Sequence[Release]) -> Release | None:
    """The release on its way that answers a part of the requests beside the version it would replace, if there is one."""
    coming = in_progress(releases)
    if coming is None or coming.opened is Opened.ROLLBACK or coming.phase is Phase.DEGRADED:
        return None
    return coming if coming.weight_pct > 0 and coming.previous is not None and live(releases) is not None else None


def desired_traffic(
    releases: Sequence[Release],
    policy_of: PolicyOf,
    *,
    challenger: Challenger | None,
    keep_warm: int,
    recovering: bool = False,
    retired: frozenset[int] = frozenset(),
) -> Traffic | None:
    """What one model's requests in one environment should meet; None before its first release.

    Copies go to the candidate from its `mirror` step until it answers itself, to the challenger as long as there is
    one, and to the replaced version through the bake and while an incident's recovery is being verified, in pairs.
    A version that was retired is kept warm no longer.
    """
    if not releases:
        return None
    standing = promoted(releases)
    stable = standing[-1] if standing else None
    candidate = in_progress(releases)
    mirrors: list[Mirror] = []
    warm: list[Arm] = [r.arm for r in standing[-1 - keep_warm : -1] if r.version not in retired][::-1]
    at_full: list[str] = [arm.digest for arm in warm]
    weight = 0.0
    if candidate is not None and candidate.phase is not Phase.DEGRADED:
        # A candidate that answers already is the only healthy one when the stable version was taken back.
        weight = 100.0 if stable is None and candidate.weight_pct else candidate.weight_pct
        warm.insert(0, candidate.arm)
        if isinstance(policy_of(candidate).strategy, spec.BlueGreen):
            at_full.append(candidate.digest)
        percent = mirrored_pct(candidate, policy_of(candidate))
        if percent and not weight and stable is not None:
            mirrors.append(Mirror(arm=candidate.arm, role="mirror", percent=percent))
    if stable is not None and stable.previous is not None and _both_sides_stay(stable, policy_of):
        at_full.append(stable.previous.digest)
        warm += [] if stable.previous in warm else [stable.previous]
    if challenger is not None and stable is not None and challenger.digest != stable.digest:
        arm = Arm(release=f"challenger-{challenger.version}", version=challenger.version, digest=challenger.digest)
        mirrors.append(Mirror(arm=arm, role="challenger"))
    baking = _compared_with(stable, policy_of, recovering=recovering) if stable else None
    if baking is not None:
        mirrors.append(Mirror(arm=baking, role="mirror"))
    salted = candidate or stable or releases[-1]
    return Traffic(
        workspace=salted.workspace,
        model=salted.model,
        environment=salted.environment,
        stable=None if stable is None else stable.arm,
        candidate=candidate.arm if candidate is not None and weight > 0 else None,
        weight_pct=weight,
        mirrors=tuple(mirrors),
        warm=tuple(warm),
        at_full=tuple(at_full),
        salt=f"{salted.workspace}/{salted.environment}/{salted.model}/{salted.number}",
    )


def _both_sides_stay(stable: Release, policy_of: PolicyOf) -> bool:
    """After a blue-green switch the replaced version stays as it was until the release is finished."""
    switched = stable.phase is Phase.VERIFYING and stable.opened is not Opened.ROLLBACK
    return switched and isinstance(policy_of(stable).strategy, spec.BlueGreen)


def _compared_with(stable: Release, policy_of: PolicyOf, *, recovering: bool) -> Arm | None:
    """The replaced version, while the stable one is still compared with it."""
    if stable.previous is None or stable.opened is Opened.ROLLBACK:
        return None
    if recovering:
        return stable.previous
    if stable.phase is not Phase.VERIFYING:
        return None
    steps = steps_of(policy_of(stable), stable)[stable.step :]
    compares = any(isinstance(step, spec.Bake) and step.metrics for step in steps)
    return stable.previous if compares else None


def mirrored_pct(release: Release, policy: spec.EnvironmentPolicy) -> float:
    """Share of requests copied at the release's present step; 0 before its mirror step and after promotion."""
    if release.phase is Phase.PENDING or release.resumes is Phase.PENDING:
        return 0.0
    percent = 0.0
    for step in steps_of(policy, release)[: release.step + 1]:
        if isinstance(step, spec.Mirror):
            percent = float(step.percent)
    return percent
