"""Opens a release and gives one up: the two changes that people and remedies share, inside the caller's transaction."""

from datetime import datetime

from steersman.decide.rolling_out import GATES_STEP, degrade, step_name
from steersman.decide.routing import live, proof_of
from steersman.domain import spec
from steersman.domain.approval import Waived, Waiver
from steersman.domain.errors import BadRequest, Blocked, Conflict, NotFound
from steersman.domain.events import Action
from steersman.domain.identifiers import new_id
from steersman.domain.release import Completion, Opened, Phase, Proof, Release
from steersman.domain.version import Version
from steersman.loop.entries import release_event
from steersman.loop.reconciler import Reconciler
from steersman.loop.world import Documents, World
from steersman.store.transaction import Transaction


def open_release(
    tx: Transaction,
    world: World,
    documents: Documents,
    reconciler: Reconciler,
    *,
    workspace: str,
    name: str,
    number: int,
    environment: str,
    actor: str,
    because: str,
    opened: Opened,
    incident: str | None = None,
    hotfix: bool = False,
) -> Release:
    """Ask for version `number` in `environment`.

    What happens when a release is on its way there stands in the document (`concurrency`); a rollback always takes its
    place, and nothing takes the place of a rollback. Raises NotFound, Conflict, BadRequest, and Blocked where the version
    proved nothing in the environment before.
    """
    model = documents.model(tx, workspace, name)
    version = version_of(tx, workspace, name, number)
    _refuse_unreleasable(model, version, environment)
    now = world.clock.now()
    releases = tx.releases(workspace, name, environment)
    policy = model.spec.environments.get(environment, spec.EnvironmentPolicy())
    proved: Proof | None = None
    waivers: list[Waiver] = []
    if opened is not Opened.ROLLBACK:
        _refuse_unknown_columns(model, version)
        waivers = _usable(tx, version, environment, opened_by=actor, now=now)
        proved = _proved_before(tx, model, version, policy, environment, waivers)
    serving = live(releases)
    if opened is Opened.COMMAND and serving is not None and serving.digest == version.digest:
        raise Conflict(
            f"version {number} of {name} answers in {environment} already, since release {serving.number}",
            next_step="There is nothing to release; `steersman retire` and `rollback` take a version away.",
        )
    coming = [r for r in releases if r.active]
    if coming and opened is not Opened.ROLLBACK and policy.concurrency is spec.Concurrency.REJECT:
        raise Conflict(f"release {coming[0].number} of {name} is still on its way in {environment}")
    if opened is Opened.ROLLBACK or policy.concurrency is spec.Concurrency.SUPERSEDE:
        why = "a rollback takes its place" if opened is Opened.ROLLBACK else "a newer release takes its place"
        for older in coming:
            if older.opened is Opened.ROLLBACK and opened is not Opened.ROLLBACK:
                continue  # a new release waits for it: traffic must not go back to what was just taken away
            give_up(tx, world, reconciler, older, actor=actor, because=why, ending=Completion.SUPERSEDED)
    stored = tx.document("Model", workspace, name)
    assert stored is not None
    release = Release(
        id=new_id("rel"),
        workspace=workspace,
        model=name,
        environment=environment,
        number=max((r.number for r in releases), default=0) + 1,
        version=number,
        digest=version.digest,
        previous=serving.arm if serving else None,
        document=stored.digest,
        phase=Phase.PENDING,
        step=GATES_STEP,
        step_started_at=now,
        opened=opened,
        opened_at=now,
        opened_by=actor,
        incident=incident,
        because=reason(because),
        hotfix=hotfix,
        proved=proved,
        waived=_steps_waived(waivers, policy),
    )
    tx.add_release(release)
    taken = [w for w in waivers if w.step is None or w.id in {waived.waiver for waived in release.waived}]
    for waiver in taken:
        tx.agreements.use_waiver(waiver, release=release.id)
    data: dict[str, object] = {
        "release": release.number,
        "version": number,
        "digest": version.digest,
        "document": stored.digest,
        "previous": serving.version if serving else None,
        "opened": str(opened),
        "incident": incident,
    }
    if hotfix:
        data["hotfix"] = True
    if proved is not None:
        data["proved"] = _proof_data(proved)
    if taken:
        data["waivers"] = [{"waiver": w.id, "skips": w.skips, "actor": w.actor, "because": w.because} for w in taken]
    tx.append(release_event(release, Action.RELEASE_OPENED, at=now, actor=actor, because=release.because, data=data))
    return release


def give_up(
    tx: Transaction,
    world: World,
    reconciler: Reconciler,
    release: Release,
    *,
    actor: str,
    because: str,
    ending: Completion | None = None,
) -> Release:
    """Let a release fail; Aborted if it never answered a request of production, else RolledBack, unless `ending` says."""
    if release.phase is Phase.DEGRADED:
        return release
    ending = ending or (Completion.ROLLED_BACK if release.exposed else Completion.ABORTED)
    move = degrade(release, ending, now=world.clock.now(), because=because)
    return reconciler.apply(tx, release, move, actor=actor)


def _usable(tx: Transaction, version: Version, environment: str, *, opened_by: str, now: datetime) -> list[Waiver]:
    """Waivers this version may use there; never one given by whoever opens the release."""
    return [
        waiver
        for waiver in tx.agreements.waivers(version.workspace, version.model)
        if waiver.usable(digest=version.digest, environment=environment, now=now) and waiver.actor != opened_by
    ]


def _proved_before(
    tx: Transaction,
    model: spec.Model,
    version: Version,
    policy: spec.EnvironmentPolicy,
    environment: str,
    waivers: list[Waiver],
) -> Proof | None:
    """What the same digest proved in the environment before; raises Blocked where it proved nothing and nobody waives it."""
    before = policy.after
    if before is None:
        return None
    release = proof_of(tx.releases(version.workspace, version.model, before), version.digest)
    if release is None:
        if any(waiver.skips == before for waiver in waivers):
            return None
        name = version.model if version.workspace == "default" else f"{version.workspace}/{version.model}"
        raise Blocked(
            f"version {version.number} has not stood its bake in {before}, which {environment} comes after",
            next_step=f"steersman release {name} {version.number} --environment {before} --because …; or an approver lets this "
            f"version skip it: steersman waive {name} {version.number} --environment {environment} --skip {before} --because …",
        )
    assert release.completion is not None
    assert release.promoted_at is not None
    assert release.verified_at is not None
    said = [f"{v.kind} {v.body['name']}: {v.body['because']}" for v in tx.verdicts(release.id)]
    return Proof(
        environment=before,
        release=release.id,
        number=release.number,
        completion=release.completion,
        promoted_at=release.promoted_at,
        verified_at=release.verified_at,
        verdicts=tuple(dict.fromkeys(said)),
    )


def _proof_data(proof: Proof) -> dict[str, object]:
    return {
        "environment": proof.environment,
        "release": proof.number,
        "completion": str(proof.completion),
        "promoted_at": proof.promoted_at.isoformat(),
        "verified_at": proof.verified_at.isoformat(),
        "verdicts": list(proof.verdicts),
    }


def _steps_waived(waivers: list[Waiver], policy: spec.EnvironmentPolicy) -> tuple[Waived, ...]:
    """The steps they name, where the document still has the same step at that place."""
    steps = policy.strategy.steps
    return tuple(
        waived_step(waiver)
        for waiver in waivers
        if waiver.step is not None and waiver.step < len(steps) and step_name(steps[waiver.step]) == waiver.what
    )


def waived_step(waiver: Waiver) -> Waived:
    """A waiver of a step as the release that uses it keeps it."""
    assert waiver.step is not None
    return Waived(
        step=waiver.step, waiver=waiver.id, actor=waiver.actor, because=waiver.because, until=waiver.expires_at
    )


def _refuse_unreleasable(model: spec.Model, version: Version, environment: str) -> None:
    if version.retired_at is not None:
        raise Conflict(
            f"version {version.number} was retired: {version.retired_because}", next_step="Release another version."
        )
    if environment not in model.spec.environments:
        declared = ", ".join(sorted(model.spec.environments)) or "none"
        raise NotFound(
            f"model {version.model} declares no environment {environment!r}; it declares {declared}",
            next_step="Add it under spec.environments and apply the document.",
        )


def _refuse_unknown_columns(model: spec.Model, version: Version) -> None:
    """A column that is to be dropped or hashed and is misspelt would be kept as it is, and nobody would notice."""
    log = model.spec.inference_log
    known = {column.name for column in version.signature} | {model.spec.serving.sticky_by}
    if version.signature and (unknown := sorted({*log.drop, *log.hash} - known)):
        raise BadRequest(
            f"inferenceLog names the column {unknown[0]!r}, which version {version.number} does not take",
            next_step=f"Correct it and apply the document; the version takes {', '.join(sorted(filter(None, known)))[:300]}.",
        )


def version_of(tx: Transaction, workspace: str, name: str, number: int) -> Version:
    """Raises NotFound naming the versions there are."""
    version = tx.version(workspace, name, number)
    if version is None:
        known = ", ".join(str(v.number) for v in tx.versions(workspace, name)) or "none"
        raise NotFound(
            f"version {number} of {name} is not registered here; known: {known}",
            next_step=f"steersman release {name} VERSION registers it first if the registry has it.",
        )
    return version


def reason(because: str) -> str:
    """Raises BadRequest for an empty reason: what is recorded must say why."""
    if not because.strip():
        raise BadRequest("a reason is required", next_step="Add --because 'why'.")
    return because.strip()[:2000]
