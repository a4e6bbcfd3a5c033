"""What a page says, shows and offers, read from its HTML; the browser tests look at the rest."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from steersman.console import wording
from steersman.console.pages import FORMS, PAGES, STATIC, Console, Visit, error_page, login_page
from steersman.decide.explaining import REASONS, Reason
from steersman.domain.access import Access, Grant, Kind, Permission, Principal, Role
from steersman.domain.errors import NotFound
from steersman.domain.events import Action, Event
from steersman.domain.release import Release
from steersman.ledger.entry import parse_entry
from steersman.loop.world import Documents
from steersman.store.database import Store
from steersman.testing.sample import BEGINS, Sample, build_sample
from steersman.testing.sample_hub import CASES, Case


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return build_sample(Store.at(tmp_path_factory.mktemp("sample")))


def someone(*grants: Grant) -> Access:
    return Access(principal=Principal(issuer="test", subject="ada", kind=Kind.HUMAN), grants=grants)


def visit(
    sample: Sample, access: Access, *, replay: bool = True, query: dict[str, str] | None = None, **path: str
) -> Visit:
    return Visit(
        access=access,
        now=sample.now,
        rendered_at=datetime(2026, 5, 1, 12, tzinfo=UTC),
        replay=replay,
        form_token="form-token",
        path=path,
        query=query or {},
    )


EVERYTHING = someone(Grant(role=Role.OPERATOR), Grant(role=Role.APPROVER))


def console(sample: Sample) -> Console:
    return Console(sample.store, Documents(), key=sample.key)


def releases(sample: Sample, model: str = "flight-delay") -> dict[int, Release]:
    with sample.store.read() as tx:
        return {release.number: release for release in tx.releases("ops", model, "production")}


def hub(sample: Sample, model: str) -> dict[int, Release]:
    with sample.store.read() as tx:
        return {release.number: release for release in tx.releases("hub", model, "production")}


def every_page(sample: Sample, access: Access = EVERYTHING) -> dict[str, str]:
    shown = console(sample)
    found = {
        "fleet": shown.fleet(visit(sample, access)),
        "model": shown.model(visit(sample, access, workspace="ops", model="flight-delay")),
        "empty model": shown.model(visit(sample, access, workspace="ground", model="baggage-load")),
        "ledger": shown.ledger(visit(sample, access)),
        "login": login_page(message="the code was used before"),
        "error": error_page(NotFound("there is no such page"), visit(sample, access)),
    }
    for number, release in releases(sample).items():
        found[f"release {number}"] = shown.release(visit(sample, access, release=release.id))
    with sample.store.read() as tx:
        for index, incident in enumerate(tx.incidents("ops")):
            found[f"incident {index}"] = shown.incident(visit(sample, access, incident=incident.id))
    return found


class _Outline(HTMLParser):
    """Collects what a content security policy would forbid, and the forms besides the one to log out."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.elsewhere: list[str] = []
        self.forms: list[tuple[str, list[str]]] = []
        self.leaving = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.elsewhere += [str(v) for n, v in attrs if n in ("src", "href", "action") and "//" in str(v)]
        if tag == "form":
            self.leaving = given["action"] == "/logout"
            self.forms += [] if self.leaving else [(str(given["action"]), [])]
        elif tag in ("input", "textarea") and self.forms and "name" in given and not self.leaving:
            self.forms[-1][1].append(str(given["name"]))


def outline(html: str) -> _Outline:
    parser = _Outline()
    parser.feed(html)
    return parser


def test_no_page_has_inline_styles_scripts_or_addresses_elsewhere(sample: Sample) -> None:
    for name, html in every_page(sample).items():
        assert (name, outline(html).inline, outline(html).elsewhere) == (name, [], [])


def test_every_page_says_replay_and_the_event_date_in_a_replay_and_only_there(sample: Sample) -> None:
    shown = console(sample)
    assert "in a replay: event time is 11 Dec 2013, 06:00 UTC" in shown.fleet(visit(sample, EVERYTHING))
    assert "in a replay" not in shown.fleet(visit(sample, EVERYTHING, replay=False))


def test_every_page_names_the_command_that_answers_the_same(sample: Sample) -> None:
    pages = every_page(sample)
    release = releases(sample)[2]
    assert "<code>steersman status</code>" in pages["fleet"]
    assert "<code>steersman history ops/flight-delay</code>" in pages["model"]
    assert f"<code>steersman releases {release.id}</code>" in pages["release 2"]
    assert "<code>steersman ledger verify</code>" in pages["ledger"]


def test_an_empty_fleet_tells_the_next_step() -> None:
    store = Store("sqlite:///:memory:")
    empty = Console(store, Documents())
    asked = Visit(
        access=EVERYTHING,
        now=datetime(2026, 5, 1, tzinfo=UTC),
        rendered_at=datetime(2026, 5, 1, tzinfo=UTC),
        replay=False,
        form_token="",
    )
    html = empty.fleet(asked)
    assert "No model yet" in html
    assert "steersman init model.yaml" in html


def test_a_visitor_of_one_workspace_sees_nothing_of_another(sample: Sample) -> None:
    ground = someone(Grant(role=Role.OPERATOR, workspace="ground"))
    shown = console(sample)
    fleet = shown.fleet(visit(sample, ground))
    assert "baggage-load" in fleet
    assert "flight-delay" not in fleet
    assert "flight-delay" not in shown.ledger(visit(sample, ground))
    with pytest.raises(NotFound):
        shown.model(visit(sample, ground, workspace="ops", model="flight-delay"))
    with pytest.raises(NotFound):
        shown.release(visit(sample, ground, release=releases(sample)[2].id))
    with sample.store.read() as tx:
        incident = tx.incidents("ops")[0].id
    with pytest.raises(NotFound):
        shown.incident(visit(sample, ground, incident=incident))


def test_forms_are_shown_to_those_who_may_and_carry_token_and_reason(sample: Sample) -> None:
    waiting = releases(sample, "missed-connection")[2].id
    asked = {
        role: outline(console(sample).release(visit(sample, someone(Grant(role=role)), release=waiting))).forms
        for role in (Role.VIEWER, Role.OPERATOR, Role.APPROVER)
    }
    assert asked[Role.VIEWER] == []
    assert [path.rpartition("/")[2] for path, _ in asked[Role.OPERATOR]] == ["abort"]  # no promotion past an approval
    assert [path.rpartition("/")[2] for path, _ in asked[Role.APPROVER]] == ["approve", "reject", "waive"]
    for path, fields in asked[Role.OPERATOR] + asked[Role.APPROVER]:
        more = ["version", "environment"] if path.endswith("/waive") else []
        assert fields == ["csrf_token", *more, "because"]


def test_a_step_is_waived_by_those_who_may_and_did_not_make_it(sample: Sample) -> None:
    under_way = hub(sample, "runway-queue")[2].id
    html = console(sample).release(visit(sample, EVERYTHING, release=under_way))
    assert "/models/hub/runway-queue/waive" in [path for path, _ in outline(html).forms]
    assert '<option value="1">1: analysis of log_loss</option>' in html
    maker = Access(
        principal=Principal(issuer="test", subject="noor@example.com", kind=Kind.HUMAN), grants=EVERYTHING.grants
    )
    for access in (someone(Grant(role=Role.OPERATOR)), maker):
        assert "/waive" not in console(sample).release(visit(sample, access, release=under_way))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_way_to_stand_is_said_on_the_release_s_page_with_its_commands(sample: Sample, case: Case) -> None:
    """The release's own reason, what it means, and commands that name it, or its model: no place stays open."""
    number = 3 if case.shows is Reason.QUEUED else 2
    html = unescape(console(sample).release(visit(sample, EVERYTHING, release=hub(sample, case.name)[number].id)))
    box = html[html.index('aria-labelledby="standing"') : html.index("</section>", html.index('id="standing"'))]
    assert f'id="standing">{wording.sentence(case.shows)}<' in box
    assert box.count('<code class="command">steersman ') == len(REASONS[case.shows].choices)
    assert not re.search(r"[{}]|None", box)


def test_the_fleet_says_why_a_release_waits_and_why_the_newest_one_fell(sample: Sample) -> None:
    html = console(sample).fleet(visit(sample, EVERYTHING))
    for said in ("analysis of log_loss, split not as asked", "v2: gate failed", "evidence under way; 1 queued"):
        assert said in html


def test_every_form_of_every_page_has_a_route(sample: Sample) -> None:
    patterns = [re.sub(r"\{\w+\}", r"[^/]+", form.path) for form in FORMS] + ["/login"]
    for html in every_page(sample).values():
        for path, _ in outline(html).forms:
            assert any(re.fullmatch(pattern, path) for pattern in patterns), path


def test_a_rollback_is_offered_with_the_environment_it_is_for(sample: Sample) -> None:
    html = console(sample).model(visit(sample, EVERYTHING, workspace="ops", model="flight-delay"))
    assert outline(html).forms == [
        ("/models/ops/flight-delay/rollback", ["csrf_token", "environment", "because"]),
    ]
    assert "Roll back to version 9" in html


def test_a_release_that_did_not_make_it_offers_to_try_again(sample: Sample) -> None:
    html = console(sample).release(visit(sample, EVERYTHING, release=releases(sample)[5].id))
    assert outline(html).forms == [(f"/releases/{releases(sample)[5].id}/retry", ["csrf_token", "because"])]


def test_a_release_page_says_why_it_stands_there_and_the_very_command_that_comes_next(sample: Sample) -> None:
    broken = console(sample).release(visit(sample, EVERYTHING, release=releases(sample)[5].id))
    assert "Guardrail broken" in broken
    assert "version 4 answers again in production" in broken
    assert "steersman retry rel-" in broken
    waits = console(sample).release(visit(sample, EVERYTHING, release=releases(sample, "missed-connection")[2].id))
    assert "Version 2 needs 1 more approval by the role approver before it goes on" in waits
    assert "steersman approve rel-" in waits


def test_a_finished_release_offers_nothing(sample: Sample) -> None:
    assert outline(console(sample).release(visit(sample, EVERYTHING, release=releases(sample)[2].id))).forms == []


def test_what_others_wrote_stays_text() -> None:
    store = Store("sqlite:///:memory:")
    hostile = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    with store.write() as tx:
        tx.append(
            Event(
                action=Action.MANUAL_CHANGE_REFUSED,
                at=datetime(2026, 5, 1, tzinfo=UTC),
                actor="<b>mallory</b>",
                workspace="ops",
                kind="model",
                name="x/../<svg onload=alert(3)>",
                because=hostile,
                data={"path": hostile},
            )
        )
    asked = Visit(
        access=EVERYTHING,
        now=datetime(2026, 5, 1, tzinfo=UTC),
        rendered_at=datetime(2026, 5, 1, tzinfo=UTC),
        replay=False,
        form_token="",
    )
    html = Console(store, Documents()).ledger(asked)
    assert outline(html).inline == []
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "<b>mallory" not in html


def test_the_ledger_page_says_so_when_an_entry_was_changed(
    sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import sqlalchemy as sa

    from steersman.store import tables

    state = tmp_path_factory.mktemp("tampered")
    own = build_sample(Store.at(state))
    assert "verified</span>" in Console(own.store, Documents(), key=own.key).ledger(visit(own, EVERYTHING))
    with own.store.read() as tx:
        body = next(iter(tx.ledger.rows(10, 1))).body
    changed = parse_entry(body)
    assert changed.because
    engine = sa.create_engine(f"sqlite:///{state / 'control.db'}")
    with engine.begin() as connection:
        altered = body.replace(changed.because.encode(), b"x" * len(changed.because.encode()))
        connection.execute(sa.update(tables.ledger_entry).where(tables.ledger_entry.c.idx == 10).values(body=altered))
    engine.dispose()
    html = Console(own.store, Documents(), key=own.key).ledger(visit(own, EVERYTHING))
    assert "does not verify" in html


@pytest.mark.parametrize("page", ["0", "-3", "x", "99999999999", "99", ""])
def test_any_page_of_the_ledger_is_a_page(sample: Sample, page: str) -> None:
    assert "newest first" in console(sample).ledger(visit(sample, EVERYTHING, query={"page": page}))


def test_every_chart_has_its_finding_in_words_and_its_data_as_a_table(sample: Sample) -> None:
    for name, html in every_page(sample).items():
        for figure in re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL):
            assert re.search(r"<figcaption>\s*\S", figure), name
            assert "<table>" in figure, name
            assert re.search(r'<svg[^>]* role="(img|group)" aria-label="[^"]+"', figure), name


def test_pages_need_the_permissions_they_name() -> None:
    assert {page.path: page.permission for page in PAGES} == {
        "/": Permission.CONSOLE_READ,
        "/models/{workspace}/{model}": Permission.MODEL_READ,
        "/releases/{release}": Permission.MODEL_READ,
        "/incidents/{incident}": Permission.MODEL_READ,
        "/ledger": Permission.LEDGER_READ,
    }


def test_the_script_stays_below_eight_kilobytes() -> None:
    assert len(STATIC["live.js"].body) < 8_000


def test_a_report_nobody_can_read_is_left_out(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> None:
    own = build_sample(Store.at(tmp_path_factory.mktemp("report")))
    with own.store.write() as tx:
        tx.put_setting("report", "[1, 2")
    html = Console(own.store, Documents()).fleet(visit(own, EVERYTHING))
    assert "The replayed year" not in html
    assert "The replayed year" in console(sample).fleet(visit(sample, EVERYTHING))


def test_a_first_release_without_evidence_is_shown(sample: Sample) -> None:
    first = releases(sample)[1]
    html = console(sample).release(visit(sample, EVERYTHING, release=first.id))
    assert "nothing: the first in production" in html
    assert "not applicable" in html


def test_a_release_in_every_state_of_a_fresh_life_is_shown(sample: Sample) -> None:
    waiting = releases(sample, "missed-connection")[2]
    assert msgspec.structs.asdict(waiting)["completion"] is None
    html = console(sample).release(visit(sample, EVERYTHING, release=waiting.id))
    assert "1 approval lacking, by the role approver" in html
    assert "No evidence yet" in html


@pytest.mark.parametrize("days", [0, 1, 2, 3, 4, 10, 47, 50, 56, 80, 121, 126, 216])
def test_every_page_holds_at_every_stage_of_a_life(tmp_path: Path, days: int) -> None:
    early = build_sample(Store.at(tmp_path), until=BEGINS + timedelta(days=days))
    shown = console(early)
    pages = [shown.fleet(visit(early, EVERYTHING)), shown.ledger(visit(early, EVERYTHING))]
    pages.append(shown.model(visit(early, EVERYTHING, workspace="ops", model="flight-delay")))
    pages += [shown.release(visit(early, EVERYTHING, release=release.id)) for release in releases(early).values()]
    with early.store.read() as tx:
        incidents = tx.incidents("ops")
    pages += [shown.incident(visit(early, EVERYTHING, incident=incident.id)) for incident in incidents]
    for html in pages:
        assert "nan" not in html.lower().replace("governance", "").split()
        assert outline(html).inline == []


def test_what_is_to_be_known_about_the_workers_stands_on_the_models_page(sample: Sample) -> None:
    noted = Console(sample.store, Documents(), notes=lambda _workspace, model: [f"{model}: sandbox: none <b>"])
    html = noted.model(visit(sample, EVERYTHING, workspace="ops", model="flight-delay"))
    assert 'class="note"' in html
    assert "sandbox: none &lt;b&gt;" in html
