"""One installation of Steersman, as an object: everything the command line does is a method here.

Answers are the API's JSON as plain dictionaries, because what an installation can say grows faster than its clients.
Times are aware datetimes in UTC. Errors are those of `steersman.domain.errors`, each with its next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from steersman.client.connection import Connection, segment
from steersman.client.inference import (
    Label,
    Prediction,
    prepare_labels,
    prepare_prediction,
    read_prediction,
    rfc3339,
    split_reference,
)
from steersman.client.traffic import Prepared, Traffic
from steersman.domain.documents import encode_document
from steersman.domain.durations import format_duration
from steersman.domain.errors import Misconfigured, SteersmanError, Unavailable
from steersman.domain.spec import Document

Json = dict[str, Any]

ADVANCE_TIMEOUT_S = 600.0
"""Longest wait for one move of the replay's clock: it commits, folds and reconciles until nothing moves."""

ERASE_TIMEOUT_S = 600.0
"""Longest wait for an erasure: each date with rows of the entity is written anew."""

RECONNECT_S = 60.0
"""How long a repeatable call keeps trying when the control server is gone: a supervisor has restarted it by then."""

POLL_S = 0.5
"""Time between two looks while waiting for a release."""


class Steersman:
    """A connection to the control server at `url`, and to the router for predictions and labels.

    The router's address is asked of the control server when first needed, unless given.
    """

    def __init__(
        self, url: str, token: str | None = None, *, router_url: str | None = None, timeout_s: float = 30.0
    ) -> None:
        self._api = Connection(url, token, timeout_s=timeout_s)
        self._token = token
        self._router_url = router_url
        self._router: Connection | None = None

    def __repr__(self) -> str:
        return f"Steersman({self._api.url!r})"

    def close(self) -> None:
        """Close idle connections."""
        self._api.close()
        if self._router is not None:
            self._router.close()

    # --- documents -----------------------------------------------------------------------------------------------

    def apply(self, documents: Sequence[Document | Mapping[str, Any]], *, dry_run: bool = False) -> Json:
        """Make the documents the declared state; applying the same again changes nothing."""
        body: Json = {"documents": [_plain(document) for document in documents]}
        if dry_run:
            body["dryRun"] = True
        return self._post("/documents", body, repeatable=True)

    def validate(self, documents: Sequence[Document | Mapping[str, Any]]) -> Json:
        """What `apply` would change and what is found against it, without changing anything."""
        return self.apply(documents, dry_run=True)

    # --- models and versions -------------------------------------------------------------------------------------

    def models(self) -> list[Json]:
        """All models the caller may see."""
        return self._list("/models")

    def status(self, model: str) -> Json:
        """What is live in each environment, the release on its way, open incidents."""
        return self._get(self._model(model))

    def versions(self, model: str) -> list[Json]:
        """Registered versions, newest first."""
        return self._list(f"{self._model(model)}/versions")

    def register(self, model: str, number: int) -> Json:
        """Take a version in from the model's registry: hash it, copy it, know it by its digest."""
        return self._post(f"{self._model(model)}/versions", {"number": number}, repeatable=True)

    def check(self, model: str, number: int, *, environment: str = "production") -> Json:
        """Run a version's own tests and its gates without a release; returns the check that began, or is on its way."""
        path = f"{self._model(model)}/versions/{int(number)}/checks"
        return self._post(path, {"environment": environment}, repeatable=True, timeout_s=300.0)

    def checks(self, model: str, number: int) -> list[Json]:
        """All checks of a version, newest first."""
        return self._list(f"{self._model(model)}/versions/{int(number)}/checks")

    def wait_for_check(self, check: Mapping[str, Any], *, timeout_s: float = 1800.0) -> Json:
        """Look until the check is over; returns it as it is then.

        Raises `Unavailable` when that takes longer than `timeout_s` of wall time.
        """
        model, deadline = f"{check['workspace']}/{check['model']}", time.monotonic() + timeout_s

        def look() -> Json:
            return next(c for c in self.checks(model, int(check["version"])) if c["check"] == check["check"])

        while True:
            answer = self._patiently(look, deadline=deadline)
            if answer.get("outcome"):
                return answer
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the check is not over after {timeout_s:g} s", next_step="Wait longer: --wait SECONDS."
                )
            time.sleep(POLL_S)

    def retire(self, model: str, number: int, *, because: str) -> Json:
        """Drain a version and never release it again."""
        return self._post(f"{self._model(model)}/versions/{int(number)}/retire", {"reason": because})

    def plan(self, model: str, version: int, *, environment: str = "production") -> Json:
        """What a release would do: gates, steps, evidence needed, and what stands in its way."""
        return self._post(
            f"{self._model(model)}/plan", {"version": version, "environment": environment}, repeatable=True
        )

    def history(self, model: str, *, environment: str | None = None, at: datetime | None = None) -> Json:
        """What was live, since when, by which release and evidence, who approved; at one moment, or all of it."""
        query = {"environment": environment, "at": None if at is None else rfc3339(at)}
        answer = self._api.get("/api/v1" + self._model(model) + "/history", query).data()
        return answer if isinstance(answer, dict) else {"history": answer}

    # --- releases ------------------------------------------------------------------------------------------------

    def release(
        self, model: str, version: int, *, environment: str = "production", because: str, hotfix: bool = False
    ) -> Json:
        """Open a release: bring a version into an environment along its strategy. A hotfix passes freezes, and one person
        more must agree."""
        body: Json = {"version": version, "environment": environment, "because": because}
        if hotfix:
            body["hotfix"] = True
        return self._post(f"{self._model(model)}/releases", body)

    def releases(self, model: str) -> list[Json]:
        """All releases of a model, newest first."""
        return self._list(f"{self._model(model)}/releases")

    def release_status(self, release: str) -> Json:
        """One release: phase, steps, verdicts."""
        return self._get(f"/releases/{segment(release)}")

    def waive(
        self,
        model: str,
        version: int,
        *,
        skip: str,
        environment: str = "production",
        because: str,
        expires: str = "7d",
    ) -> Json:
        """Let one version skip the environment before, by name, or one step, by its number: once, and recorded."""
        body = {"version": version, "environment": environment, "skip": skip, "because": because, "expires": expires}
        return self._post(f"{self._model(model)}/waivers", body)

    def waivers(self, model: str) -> list[Json]:
        """Newest first, used ones too."""
        return self._list(f"{self._model(model)}/waivers")

    def withdraw(self, release: str, *, because: str) -> Json:
        """Take one's own approval back, while nothing rests on it yet."""
        return self._decide(release, "withdraw", because)

    def approve(self, release: str, *, because: str) -> Json:
        return self._decide(release, "approve", because)

    def reject(self, release: str, *, because: str) -> Json:
        return self._decide(release, "reject", because)

    def pause(self, release: str, *, because: str) -> Json:
        return self._decide(release, "pause", because)

    def resume(self, release: str, *, because: str) -> Json:
        return self._decide(release, "resume", because)

    def abort(self, release: str, *, because: str) -> Json:
        """Traffic back to stable now; the release ends."""
        return self._decide(release, "abort", because)

    def retry(self, release: str, *, because: str) -> Json:
        """Open a failed release again, from its first step."""
        return self._decide(release, "retry", because)

    def promote(self, release: str, *, because: str, full: bool = False) -> Json:
        """Skip the analysis or pause it stands at, or with `full` all that are still to come; recorded as such."""
        return self._post(f"/releases/{segment(release)}/promote", {"because": because, "full": full})

    def rollback(self, model: str, *, environment: str = "production", because: str) -> Json:
        """Bring back what answered before: the version beside a release on its way, else the one promoted before."""
        return self._post(f"{self._model(model)}/rollback", {"environment": environment, "because": because})

    def wait(
        self, release: str, *, timeout_s: float = 600.0, told: Callable[[Json], None] = lambda _release: None
    ) -> Json:
        """Look until the release is complete, verifying, or waits for a person; returns it as it is then.

        `told` is called with the release each time it waits for something else than before. Raises `Unavailable` when that
        takes longer than `timeout_s` of wall time.
        """
        deadline, known = time.monotonic() + timeout_s, None
        while True:
            answer = self._patiently(lambda: self.release_status(release), deadline=deadline)
            state = answer.get("release", answer)
            if state.get("completion") or state.get("phase") in ("Paused", "Verifying", "Healthy"):
                return answer
            standing = state.get("standing") or {}
            if standing.get("reason") != known:
                known = standing.get("reason")
                told(state)
            if time.monotonic() > deadline:
                why = f": {known}" if known else ""
                raise Unavailable(
                    f"release {release} is still {state.get('phase')} after {timeout_s:g} s{why}",
                    next_step=f"steersman releases {release} says what it waits for; wait longer with --wait SECONDS.",
                )
            time.sleep(POLL_S)

    # --- watching ------------------------------------------------------------------------------------------------

    def incidents(self, model: str) -> list[Json]:
        return self._list(f"{self._model(model)}/incidents")

    def incident(self, incident: str) -> Json:
        return self._get(f"/incidents/{segment(incident)}")

    def accept(self, incident: str, *, because: str) -> Json:
        """Close an incident as it is: a person takes the responsibility."""
        return self._post(f"/incidents/{segment(incident)}/accept", {"because": because})

    def monitors(self, model: str) -> list[Json]:
        return self._list(f"{self._model(model)}/monitors")

    def windows(self, model: str) -> list[Json]:
        """What the monitors saw, window by window."""
        return self._list(f"{self._model(model)}/windows")

    def erase(self, model: str, *, entity: str, because: str) -> Json:
        """Delete one entity's rows from the model's inference log, for good; returns how many of what."""
        body = {"entity": entity, "because": because}
        return self._post(f"{self._model(model)}/log/erase", body, timeout_s=ERASE_TIMEOUT_S)

    def trainings(self, model: str) -> list[Json]:
        return self._list(f"{self._model(model)}/trainings")

    def kpis(self) -> Json:
        """Figures of the installation: share of automated deployments, times to detect and to resolve."""
        return self._get("/kpis")

    # --- the ledger ----------------------------------------------------------------------------------------------

    def ledger_entries(self, *, start: int = 0, limit: int = 100) -> list[Json]:
        """Entries from index `start` on."""
        return _items(self._api.get("/api/v1/ledger", {"from": start, "limit": limit}).data())

    def ledger_checkpoint(self) -> str:
        """The signed note over the whole log: keep it, to prove later that nothing before it was changed."""
        answer = self._api.get("/api/v1/ledger/checkpoint")
        if answer.content_type == "application/json":
            data = answer.data()
            return str(data.get("checkpoint", "")) if isinstance(data, dict) else str(data)
        return answer.body.decode()

    def ledger_key(self) -> str:
        """The verifier key: keep it somewhere else, and a proof needs to trust nothing of this installation."""
        return str(self._get("/ledger/checkpoint").get("vkey", ""))

    def ledger_export(self, path: Path) -> Path:
        """Write the whole ledger to `path`, verifiable without this installation."""
        answer = self._api.get("/api/v1/ledger/export", timeout_s=300.0)
        path.write_bytes(answer.body)
        return path

    def ledger_verify(self) -> Json:
        """Let the installation verify its own log; for a proof against the installation, verify an export."""
        return self._post("/ledger/verify", {}, repeatable=True, timeout_s=300.0)

    # --- people --------------------------------------------------------------------------------------------------

    def tokens(self) -> list[Json]:
        return self._list("/tokens")

    def issue_token(
        self,
        subject: str,
        *,
        roles: Sequence[str],
        service: bool = False,
        workspace: str | None = None,
        permissions: Sequence[str] | None = None,
        life: timedelta | None = None,
    ) -> Json:
        """A new token; its secret is in this answer and nowhere else, ever again. `permissions` narrow the roles."""
        wanted: Json = {"subject": subject, "kind": "service" if service else "human", "roles": list(roles)}
        if workspace is not None:
            wanted["workspace"] = workspace
        if permissions:
            wanted["permissions"] = list(permissions)
        if life is not None:
            wanted["life"] = format_duration(life)
        return self._post("/tokens", wanted)

    def revoke_token(self, token: str) -> None:
        self._api.send("DELETE", f"/api/v1/tokens/{segment(token)}")

    def users(self) -> list[Json]:
        return self._list("/users")

    def set_user(self, subject: str, grants: Sequence[tuple[str, str]]) -> Json:
        """Add a person or replace their grants: pairs of role and workspace, `*` for every one."""
        listed = [{"role": role, "workspace": workspace} for role, workspace in grants]
        return self._post("/users", {"subject": subject, "grants": listed}, repeatable=True)

    def disable_user(self, subject: str) -> Json:
        """From now on none of their sessions and tokens is accepted."""
        return self._post(f"/users/{segment(subject)}/disable", {}, repeatable=True)

    def login_code(self, subject: str) -> Json:
        """A code to type into the console's login form, once and soon."""
        return self._post(f"/users/{segment(subject)}/login-code", {})

    # --- the installation ----------------------------------------------------------------------------------------

    def health(self) -> Json:
        return self._get("/health")

    def clock(self) -> Json:
        return self._get("/clock")

    def advance(self, to: datetime, *, timeout_s: float = ADVANCE_TIMEOUT_S) -> Json:
        """Move a replay's clock: everything up to `to` is committed, folded and decided when this returns.

        Repeated when the control server goes away meanwhile, because moving to the same moment twice moves once.
        """
        body = {"to": rfc3339(to)}
        deadline = time.monotonic() + timeout_s
        return self._patiently(
            lambda: self._post("/clock", body, repeatable=True, timeout_s=timeout_s), deadline=deadline
        )

    def keep_report(self, report: Json) -> None:
        """Hand over the report of a replay's driver; the console shows it beside what the installation knows itself."""
        self._post("/report", report, repeatable=True)

    # --- predictions and labels ----------------------------------------------------------------------------------

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Sequence[Any]],
        *,
        event_ids: Sequence[str] | None = None,
        at: datetime | None = None,
        environment: str = "production",
        datatypes: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Ask the model: one sequence a column, one answer a row."""
        prepared = prepare_prediction(
            model, inputs, event_ids=event_ids, at=at, environment=environment, datatypes=datatypes
        )
        return read_prediction(self._infer(prepared))

    def log_labels(
        self, model: str, labels: Mapping[str, float] | Iterable[Label], *, at: datetime | None = None
    ) -> int:
        """Report what turned out to be true, by event id; returns how many were accepted."""
        prepared = prepare_labels(model, labels, at=at)
        answer = self._routed().send("POST", prepared.path, prepared.body, repeatable=True).data()
        return int(_mapping(answer).get("accepted") or 0)

    def traffic(self, *, connections: int = 16, retries: int = 0) -> Traffic:
        """Connections for many predictions at once."""
        return Traffic(self.router_url(), self._token, connections=connections, retries=retries)

    def router_url(self) -> str:
        """Where predictions and labels go."""
        if self._router_url is None:
            found = self.health().get("router")
            if not isinstance(found, str):
                raise Misconfigured(
                    "the control server names no router", next_step="Give router_url, or run `steersman doctor`."
                )
            self._router_url = found
        return self._router_url

    def _infer(self, prepared: Prepared) -> bytes:
        headers = {} if prepared.at is None else {"X-Event-Time": rfc3339(prepared.at)}
        return self._routed().send("POST", prepared.path, prepared.body, headers=headers).body

    def _routed(self) -> Connection:
        if self._router is None:
            self._router = Connection(self.router_url(), self._token, timeout_s=self._api.timeout_s)
        return self._router

    # --- plumbing ------------------------------------------------------------------------------------------------

    def _model(self, model: str) -> str:
        workspace, name = split_reference(model)
        return f"/models/{segment(workspace)}/{segment(name)}"

    def _get(self, path: str) -> Json:
        return _mapping(self._api.get("/api/v1" + path).data())

    def _list(self, path: str) -> list[Json]:
        return _items(self._api.get("/api/v1" + path).data())

    def _post(self, path: str, body: Json, *, repeatable: bool = False, timeout_s: float | None = None) -> Json:
        return _mapping(self._api.post("/api/v1" + path, body, repeatable=repeatable, timeout_s=timeout_s).data())

    def _decide(self, release: str, decision: str, because: str) -> Json:
        return self._post(f"/releases/{segment(release)}/{decision}", {"because": because})

    def _patiently(self, call: Callable[[], Json], *, deadline: float) -> Json:
        """Repeat a call that may be repeated while the server is away, at most `RECONNECT_S` in a row."""
        gone_since: float | None = None
        while True:
            try:
                return call()
            except Unavailable:
                now = time.monotonic()
                gone_since = gone_since or now
                if now > deadline or now - gone_since > RECONNECT_S:
                    raise
                time.sleep(POLL_S)


def _plain(document: Document | Mapping[str, Any]) -> Mapping[str, Any]:
    return document if isinstance(document, Mapping) else encode_document(document)


def _mapping(data: object) -> Json:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SteersmanError("the answer is not of the expected form: client and server may be of different versions")
    return data


def _items(data: object) -> list[Json]:
    """The list of an answer: bare, or the one list in an object."""
    if isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else None
    if not isinstance(data, list):
        raise SteersmanError("the answer is not of the expected form: client and server may be of different versions")
    return data
