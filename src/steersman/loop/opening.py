"""Opens a release and gives one up: the two changes that people and remedies share, inside the caller's transaction."""

from steersman.decide.rolling_out import degrade, failure
from steersman.decide.routing import live
from steersman.decide.steps import GATES_STEP
from steersman.domain import spec
from steersman.domain.errors import BadRequest, Conflict, NotFound
from steersman.domain.events import Action
from steersman.domain.identifiers import new_id
from steersman.domain.release import Cause, Completion, Opened, Phase, Release
from steersman.domain.version import Version
from steersman.loop.entries import release_event
from steersman.loop.proving import Brought, bring_along
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
    brought = Brought()
    if opened is not Opened.ROLLBACK:
        _refuse_unknown_columns(model, version)
        brought = bring_along(tx, version, policy, environment, opened_by=actor, now=now)
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
            give_up(tx, world, reconciler, older, actor=actor, because=why, cause=Cause.SUPERSEDED)
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
        proved=brought.proved,
        waived=brought.waived,
    )
    tx.add_release(release)
    for waiver in brought.waivers:
        tx.agreements.use_waiver(waiver, release=release.id)
    data: dict[str, object] = {
        "release": release.number,
        "version": number,
        "digest": version.digest,
        "document": stored.digest,
        "previous": serving.version if serving else None,
        "opened": str(opened),
        "incident": incident,
        **({"hotfix": True} if hotfix else {}),
        **brought.told(),
    }
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
    cause: Cause,
) -> Release:
    """Let a release fail; Aborted if it never answered a request of production, else RolledBack, unless another release
    takes its place."""
    if release.phase is Phase.DEGRADED:
        return release
    ending = Completion.SUPERSEDED if cause is Cause.SUPERSEDED else failure(release)
    move = degrade(release, ending, now=world.clock.now(), because=because, cause=cause)
    return reconciler.apply(tx, release, move, actor=actor)


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
