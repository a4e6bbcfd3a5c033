"""The registry's `champion` alias follows the release: one that somebody moved past the guard is found and set back."""

from datetime import datetime

from steersman.domain import spec
from steersman.domain.events import Action, Event
from steersman.domain.operation import Intent, OperationKind
from steersman.loop.asking import ask
from steersman.loop.reconciler import CHAMPION
from steersman.loop.world import Documents, World, registry_of


class Aliases:
    """Compares every model's alias with what the releases last made of it, once at each point of event time."""

    def __init__(self, world: World, documents: Documents) -> None:
        self._world = world
        self._documents = documents
        self._seen_at: datetime | None = None

    def compare(self) -> bool:
        """Record what somebody else moved, and let it follow the release again; True if anything was written."""
        now = self._world.clock.now()
        if now == self._seen_at:
            return False
        self._seen_at = now
        with self._world.store.read() as tx:
            models = self._documents.models(tx)
            if any(operation.kind is OperationKind.ALIAS for operation in tx.open_operations()):
                return False
            places = [(model, model.metadata.workspace, model.metadata.name) for model in models]
            expected = [
                (model, tx.observed_aliases(workspace, name).get(CHAMPION)) for model, workspace, name in places
            ]
        moved = False
        for model, number in expected:
            if number is None:
                continue
            found = registry_of(self._world, model).aliases(model.spec.versions.name).get(CHAMPION)
            if found != number:
                moved = self._restore(model, number, found, now) or moved
        return moved

    def _restore(self, model: spec.Model, number: int, found: int | None, now: datetime) -> bool:
        workspace, name = model.metadata.workspace, model.metadata.name
        with self._world.store.write() as tx:
            changing = any(operation.kind is OperationKind.ALIAS for operation in tx.open_operations())
            if changing or tx.observed_aliases(workspace, name).get(CHAMPION) != number:
                return False  # a release moved it meanwhile
            tx.append(
                Event(
                    action=Action.MANUAL_CHANGE_OBSERVED,
                    at=now,
                    actor="system",
                    workspace=workspace,
                    kind="model",
                    name=name,
                    because=f"{CHAMPION} pointed to {found or 'nothing'} instead of version {number}; "
                    "serving never followed it",
                    data={"alias": CHAMPION, "found": found, "expected": number},
                )
            )
            args = {"workspace": workspace, "model": name, "alias": CHAMPION, "number": number}
            key = f"alias/{name}/restore/{now.isoformat()}"
            return ask(tx, Intent(key=key, kind=OperationKind.ALIAS, args=args), at=now)
