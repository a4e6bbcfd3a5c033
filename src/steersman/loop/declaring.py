"""Makes documents the declared state: all that are applied together, or none."""

from collections.abc import Mapping, Sequence
from typing import Any

from steersman.domain import spec
from steersman.domain.documents import canonical, digest, examine, identity
from steersman.domain.errors import BadDocument, Problem
from steersman.domain.events import Action, Event
from steersman.domain.linting import Finding as LintFinding
from steersman.domain.linting import Level, lint
from steersman.loop.withdrawing import withdraw_outdated
from steersman.loop.world import World, environment_of
from steersman.ports import MetricError
from steersman.store.records import StoredDocument
from steersman.store.transaction import Transaction


class Declaring:
    """What `apply` does. A release keeps to the revision it was opened under; approvals given under another one end."""

    def __init__(self, world: World) -> None:
        self._world = world

    def apply(self, raw: Sequence[Mapping[str, Any]], *, actor: str, dry_run: bool = False) -> list[dict[str, Any]]:
        """Make documents the declared state: all of them or none. Raises BadDocument with every problem of the first bad one."""
        parsed: list[spec.Document] = []
        for data in raw:
            problems, document = examine(data)
            if document is None or problems:
                raise BadDocument(problems)
            self._refuse_unknown_registry(document)
            self._refuse_unknown_channels(document)
            self._refuse_unreadable_metrics(document)
            self._refuse_unknown_entry_points(document)
            parsed.append(document)
        results = []
        with self._world.store.write() as tx:
            for document in parsed:
                findings = self._findings(tx, document, parsed) if isinstance(document, spec.Model) else []
                results.append(self._apply_one(tx, document, findings, actor=actor, dry_run=dry_run))
        return results

    def _findings(self, tx: Transaction, model: spec.Model, applied: Sequence[spec.Document]) -> Sequence[LintFinding]:
        """What the linter says, with the environments as they will be; an error is refused where the mode is `prevent`."""
        workspace = model.metadata.workspace
        environments = {name: environment_of(tx, workspace, name) for name in model.spec.environments}
        environments |= {
            document.metadata.name: document.spec
            for document in applied
            if isinstance(document, spec.Environment) and document.metadata.workspace == workspace
        }
        findings = lint(model, environments=environments, targets={"local": self._world.target.capabilities})
        errors = [f for f in findings if f.level is Level.ERROR]
        refused = [f for f in errors if environments[f.environment].mode is spec.PolicyMode.PREVENT]
        if refused:
            raise BadDocument(
                [Problem(path=f.path, message=f.message) for f in refused],
                next_step="Correct the document; an Environment document with mode: warn lets such errors pass.",
            )
        return findings

    def _refuse_unknown_registry(self, document: spec.Document) -> None:
        """Now, and not when the first version is looked for; only the installation knows which registries there are."""
        known = self._world.registries
        if not isinstance(document, spec.Model) or document.spec.versions.registry in known:
            return
        problem = Problem(
            path="spec.versions.registry",
            message=f"this installation has no registry {document.spec.versions.registry!r}; it has: "
            + (", ".join(sorted(known)) or "none"),
        )
        next_step = "Name one of these, or start `steersman up` with one more (--registry DIR, --mlflow-uri URI)."
        raise BadDocument([problem], next_step=next_step)

    def _refuse_unknown_channels(self, document: spec.Document) -> None:
        known = self._world.notifier.channels
        wanted = document.spec.incidents.notify if isinstance(document, spec.Model) else ()
        has = ", ".join(sorted(known)) or "none"
        problems = [
            Problem(path="spec.incidents", message=f"notify[{index}]: no channel {name!r} here; it has: {has}")
            for index, name in enumerate(wanted)
            if name not in known
        ]
        if problems:
            raise BadDocument(problems, next_step="Start `steersman up` with --notify NAME=env:VARIABLE for it.")

    def _refuse_unreadable_metrics(self, document: spec.Document) -> None:
        """A declared metric is evaluated by what reads the tables, and only that knows what it can read."""
        declared = document.spec.metrics if isinstance(document, spec.Model) else ()
        problems = [
            Problem(path=f"spec.metrics[{index}]", message=f"expression: {because}")
            for index, metric in enumerate(declared)
            if metric.expression is not None
            and (because := self._world.log.refuse_measure(metric.expression)) is not None
        ]
        if problems:
            raise BadDocument(problems, next_step="Write it as SQL over one row: score, label and input columns.")

    def _refuse_unknown_entry_points(self, document: spec.Document) -> None:
        declared = document.spec.metrics if isinstance(document, spec.Model) else ()
        problems = [
            Problem(path=f"spec.metrics[{index}]", message=f"entryPoint: {because}")
            for index, metric in enumerate(declared)
            if metric.entry_point is not None and (because := self._why_not_installed(metric.entry_point)) is not None
        ]
        if problems:
            raise BadDocument(
                problems,
                next_step="Install the distribution that offers it in the group 'steersman.metrics' where the control "
                "server runs, and start that again.",
            )

    def _why_not_installed(self, name: str) -> str | None:
        metrics = self._world.metrics
        if name not in metrics:
            return f"no metric {name!r} is installed here; it has: {', '.join(sorted(metrics)) or 'none'}"
        try:
            metrics[name].load()
        except MetricError as error:
            return str(error)
        return None

    def _apply_one(
        self, tx: Transaction, document: spec.Document, findings: Sequence[LintFinding], *, actor: str, dry_run: bool
    ) -> dict[str, Any]:
        kind, workspace, name = identity(document)
        new_digest = digest(document)
        stored = tx.document(kind, workspace, name)
        result: dict[str, Any] = {
            "kind": kind,
            "workspace": workspace,
            "name": name,
            "digest": new_digest,
            "findings": [{"path": f.path, "level": str(f.level), "message": f.message} for f in findings],
        }
        if stored is not None and stored.digest == new_digest:
            return {**result, "outcome": "unchanged", "revision": stored.revision}
        revision = stored.revision + 1 if stored else 1
        if not dry_run:
            tx.put_document(
                StoredDocument(
                    kind=kind,
                    workspace=workspace,
                    name=name,
                    revision=revision,
                    digest=new_digest,
                    at=self._world.clock.now(),
                    actor=actor,
                    body=canonical(document).decode(),
                )
            )
            tx.append(
                Event(
                    action=Action.DOCUMENT_APPLIED,
                    at=self._world.clock.now(),
                    actor=actor,
                    workspace=workspace,
                    kind="document",
                    name=f"{kind}/{name}",
                    because=f"revision {revision} of {kind} {name}",
                    data={"revision": revision, "digest": new_digest},
                )
            )
            if isinstance(document, spec.Model):
                for release in tx.releases(workspace, name):
                    if release.active:
                        withdraw_outdated(tx, release, actor=actor, now=self._world.clock.now())
        return {**result, "outcome": "created" if stored is None else "changed", "revision": revision}
