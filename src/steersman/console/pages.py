"""The pages of the console: each reads a view, draws its charts and fills a template; nothing here knows HTTP.

The server mounts `PAGES`, answers `FORMS`, serves `STATIC`, and gives each page a `Visit`: who looks, at what event
time, with which form token. What a visitor may not read does not exist for him (`NotFound`); which forms a page shows
follows from his permissions, and the server checks them again when a form arrives. Every page works without scripts.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import jinja2

from steersman.console import charts, drawing, judgements, views, wording
from steersman.domain.access import Access, Permission
from steersman.domain.errors import SteersmanError
from steersman.domain.numbers import number_within
from steersman.domain.release import Release
from steersman.ledger.checkpoint import VerifierKey
from steersman.loop.world import Documents
from steersman.store.database import Store

FORM_TOKEN_FIELD = "csrf_token"  # noqa: S105 - the name of a field
"""Hidden field of every form; the server compares it with the session's token."""

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Who looks at a page, and when. `now` is event time, `rendered_at` wall time."""

    access: Access
    now: datetime
    rendered_at: datetime
    replay: bool
    form_token: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    address: str = "/"
    """Path and query of the page itself."""
    message: str = ""
    """What the action before this page did, in one sentence; shown once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    body: bytes
    content_type: str
    version: str


def _static() -> dict[str, StaticFile]:
    kinds = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
    found = {}
    for path in sorted((HERE / "static").iterdir()):
        body = path.read_bytes()
        version = hashlib.sha256(body).hexdigest()[:10]
        found[path.name] = StaticFile(body=body, content_type=kinds[path.suffix], version=version)
    return found


STATIC: Mapping[str, StaticFile] = _static()
"""Files under `/static/NAME`, by name: no path of a request ever reaches the file system."""


def static_path(name: str) -> str:
    """Address of a static file; it changes with the content, so browsers may keep it for ever."""
    return f"/static/{name}?v={STATIC[name].version}"


FILTERS = (
    "moment",
    "day",
    "short_day",
    "machine",
    "span",
    "figure",
    "signed",
    "count",
    "counted",
    "amount",
    "size",
    "brief_digest",
    "sentence",
)
"""Functions of `wording` that templates use as filters, under the same name."""


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        static=static_path,
        tone=wording.tone,
        tone_of=wording.tone_of,
        state_of=wording.state_of,
        kinds=wording.KINDS,
        marks=drawing.MARKS,
    )
    environment.filters.update({name: getattr(wording, name) for name in FILTERS})
    return environment


TEMPLATES = _environment()


class Console:
    """The pages of one installation. `key` verifies the ledger's checkpoints; `notes` says, by workspace and model, what
    must be known about the workers that run now."""

    def __init__(
        self,
        store: Store,
        documents: Documents,
        *,
        key: VerifierKey | None = None,
        notes: Callable[[str, str], Sequence[str]] = lambda _workspace, _model: (),
    ) -> None:
        self._store = store
        self._documents = documents
        self._key = key
        self._notes = notes

    def fleet(self, visit: Visit) -> str:
        with self._store.read() as tx:
            view = views.fleet(tx, visit.access, self._documents, now=visit.now)
            size = tx.ledger.size()
        cards = [card for _, group in view.workspaces for card in group]
        sparks = {
            (card.workspace, card.name): charts.sparkline(card.series, card.spans, card.begin, card.end)
            for card in cards
        }
        year = charts.months(view.report) if view.report else None
        return render("fleet.html", visit, "steersman status", size=size, view=view, sparks=sparks, year=year)

    def model(self, visit: Visit) -> str:
        workspace, name = visit.path["workspace"], visit.path["model"]
        with self._store.read() as tx:
            view = views.model_timeline(
                tx,
                visit.access,
                self._documents,
                workspace,
                name,
                now=visit.now,
                environment=visit.query.get("environment", ""),
            )
            size = tx.ledger.size()
        metric, lanes = charts.timeline(view)
        place = "" if view.environment == "production" else f" --environment {view.environment}"
        line = f"steersman history {_reference(workspace, name)}{place}"
        may_roll_back = view.previous is not None and visit.access.allows(Permission.RELEASE_ROLLBACK, workspace)
        more = {"metric": metric, "lanes": lanes, "may_roll_back": may_roll_back}
        return render("model.html", visit, line, size=size, view=view, notes=self._notes(workspace, name), **more)

    def release(self, visit: Visit) -> str:
        with self._store.read() as tx:
            view = views.release_page(tx, visit.access, self._documents, visit.path["release"], now=visit.now)
            size = tx.ledger.size()
        release = view.release
        shown = [judgements.judgement(evidence, *_arms(release)) for evidence in view.evidence]
        return render("release.html", visit, f"steersman releases {release.id}", size=size, view=view, charts=shown)

    def incident(self, visit: Visit) -> str:
        with self._store.read() as tx:
            view = views.incident_page(tx, visit.access, self._documents, visit.path["incident"])
            size = tx.ledger.size()
        found = view.incident
        clock = charts.clock(found, recovered=bool(view.recovered), now=visit.now)
        recovery = judgements.judgement(view.evidence, *_arms(view.release)) if view.evidence and view.release else None
        line = f"steersman incidents {found.id}"
        return render("incident.html", visit, line, size=size, view=view, clock=clock, recovery=recovery)

    def ledger(self, visit: Visit) -> str:
        page = number_within(visit.query.get("page", "1"), 1, 10**8) or 1
        with self._store.read() as tx:
            view = views.ledger_page(tx, visit.access, page=page, key=self._key)
        return render("ledger.html", visit, "steersman ledger verify", size=view.size, view=view)


def _arms(release: Release) -> tuple[str, str]:
    """What the two versions of a comparison are called: the one before, the one that is judged."""
    previous = f"version {release.previous.version}" if release.previous else "the version before"
    return previous, f"version {release.version}"


def _reference(workspace: str, model: str) -> str:
    return model if workspace == "default" else f"{workspace}/{model}"


def render(template: str, visit: Visit | None, line: str, *, size: int | None = None, **more: object) -> str:
    """Fill a template. `line` is what one would type for the same answer; `size` is the ledger's, where a page is live."""
    values = {"visit": visit, "line": line, "size": size, "field": FORM_TOKEN_FIELD, "stream": _stream(visit), **more}
    return TEMPLATES.get_template(template).render(values)


def _stream(visit: Visit | None) -> str:
    """Address of the page's stream; the page it is for stands in it so that logs can tell streams apart."""
    return "" if visit is None else "/live?page=" + quote(visit.address, safe="")


def login_page(*, form_token: str = "", message: str = "") -> str:
    """The form for the one-time code; the code travels in the body of a POST, never in an address."""
    return render("login.html", None, "steersman up", form_token=form_token, message=message)


def error_page(error: SteersmanError, visit: Visit | None = None) -> str:
    """What went wrong and what to do next, for the status of the error."""
    return render("error.html", visit, "steersman doctor", error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A GET route: `{name}` in the path becomes `visit.path[name]`."""

    path: str
    render: Callable[[Console, Visit], str]
    permission: Permission


PAGES: Sequence[Page] = (
    Page(path="/", render=Console.fleet, permission=Permission.CONSOLE_READ),
    Page(path="/models/{workspace}/{model}", render=Console.model, permission=Permission.MODEL_READ),
    Page(path="/releases/{release}", render=Console.release, permission=Permission.MODEL_READ),
    Page(path="/incidents/{incident}", render=Console.incident, permission=Permission.MODEL_READ),
    Page(path="/ledger", render=Console.ledger, permission=Permission.LEDGER_READ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A POST route the pages have forms for. Each sends the form token and `because`, besides `fields`."""

    path: str
    command: str
    permission: Permission
    fields: tuple[str, ...] = ()


FORMS: Sequence[Form] = (
    Form(path="/releases/{release}/approve", command="approve", permission=Permission.RELEASE_APPROVE),
    Form(path="/releases/{release}/withdraw", command="withdraw", permission=Permission.RELEASE_APPROVE),
    Form(path="/releases/{release}/reject", command="reject", permission=Permission.RELEASE_APPROVE),
    Form(path="/releases/{release}/pause", command="pause", permission=Permission.RELEASE_CONTROL),
    Form(path="/releases/{release}/resume", command="resume", permission=Permission.RELEASE_CONTROL),
    Form(path="/releases/{release}/abort", command="abort", permission=Permission.RELEASE_CONTROL),
    Form(path="/releases/{release}/retry", command="retry", permission=Permission.RELEASE_CONTROL),
    Form(path="/releases/{release}/promote", command="promote", permission=Permission.RELEASE_CONTROL),
    Form(
        path="/models/{workspace}/{model}/waive",
        command="waive",
        permission=Permission.RELEASE_WAIVE,
        fields=("version", "environment", "skip"),
    ),
    Form(
        path="/models/{workspace}/{model}/rollback",
        command="rollback",
        permission=Permission.RELEASE_ROLLBACK,
        fields=("environment",),
    ),
    Form(path="/incidents/{incident}/accept", command="accept", permission=Permission.INCIDENT_ACT),
)
"""Every action of the console; the server redirects to the page afterwards (303) and shows `Visit.message` on it."""
