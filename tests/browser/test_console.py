"""The console in a real browser: the walk through it, for everyone, with and without scripts, and live."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from steersman.domain.events import Action, Event
from steersman.testing.sample import Sample
from steersman.testing.sample_hub import CASES
from steersman.testing.served_console import FORM_TOKEN, Served

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    yield context.new_page()
    context.close()


def addresses(sample: Sample) -> dict[str, str]:
    with sample.store.read() as tx:
        releases = {release.number: release.id for release in tx.releases("ops", "flight-delay", "production")}
        waiting = tx.releases("ops", "missed-connection", "production")[-1].id
        incidents = tx.incidents("ops", "flight-delay")
        hub = {case.name: tx.releases("hub", case.name, "production")[1].id for case in CASES}
    return {
        "fleet": "/",
        "model": "/models/ops/flight-delay",
        "model without a release": "/models/ground/baggage-load",
        "model in staging": "/models/ops/missed-connection?environment=staging",
        "release under way": f"/releases/{releases[12]}",
        "release promoted": f"/releases/{releases[2]}",
        "release stopped by a gate": f"/releases/{releases[3]}",
        "release rolled back by a guardrail": f"/releases/{releases[5]}",
        "release that waits for an approval": f"/releases/{waiting}",
        "release paused undecided": f"/releases/{hub['turnaround']}",
        "release of a split in doubt": f"/releases/{hub['security-wait']}",
        "release that failed in one slice": f"/releases/{hub['late-passenger']}",
        "release being verified": f"/releases/{hub['missed-slot']}",
        "incident closed": f"/incidents/{incidents[0].id}",
        "incident open": f"/incidents/{incidents[-1].id}",
        "ledger": "/ledger",
        "ledger, last page": "/ledger?page=99",
        "login": "/login",
        "nothing there": "/releases/rel-none",
    }


def test_one_walks_from_the_fleet_to_a_model_its_release_its_incident_and_the_ledger(
    page: Page, console: Served
) -> None:
    page.goto(console.url)
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    page.get_by_role("link", name="flight-delay", exact=True).first.click()
    expect(page.get_by_role("heading", name="flight-delay")).to_be_visible()
    page.get_by_role("region", name="Releases, table").get_by_role("link", name="11", exact=True).click()
    expect(page.get_by_role("heading", name="Release 11")).to_be_visible()
    expect(page.get_by_role("img", name="Harm in roc_auc, analysis")).to_be_visible()
    page.get_by_role("link", name="inputs drifted").click()
    expect(page.get_by_role("heading", name="From finding to recovery")).to_be_visible()
    expect(page.get_by_text("surely better than the replaced version").first).to_be_visible()
    page.get_by_role("link", name="Ledger").click()
    expect(page.get_by_text("verified", exact=True)).to_be_visible()


def test_a_mark_on_the_time_axis_leads_to_its_release(page: Page, console: Served) -> None:
    page.goto(f"{console.url}/models/ops/flight-delay")
    page.get_by_role("link", name="release 7 of version 7: Aborted").click()
    expect(page.get_by_role("heading", name="Release 7")).to_be_visible()


DARK = (
    "fleet",
    "model",
    "release paused undecided",
    "release that failed in one slice",
    "release rolled back by a guardrail",
    "incident open",
    "ledger",
)
"""Pages looked at in the dark scheme too: it changes colours only, and these have every colour there is."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault_on_any_page(browser: Browser, console: Served, sample: Sample, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    faults = []
    looked_at = {n: a for n, a in addresses(sample).items() if scheme == "light" or n in DARK}
    assert scheme == "light" or len(looked_at) == len(DARK)
    for name, address in looked_at.items():
        page.goto(console.url + address)
        for details in page.locator("details").all()[:3]:
            details.evaluate("element => element.open = true")
        results = Axe().run(page)
        for violation in results.response["violations"]:
            faults += [f"{name}: {violation['id']}: {node['html'][:160]}" for node in violation["nodes"]]
    context.close()
    assert faults == []


def test_no_page_is_wider_than_a_telephone(browser: Browser, console: Served, sample: Sample) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    wide = {}
    for name, address in addresses(sample).items():
        page.goto(console.url + address)
        wide[name] = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert {name: width for name, width in wide.items() if width > 390} == {}


def test_a_page_asks_nobody_but_its_own_server_and_breaks_no_policy(
    page: Page, console: Served, sample: Sample
) -> None:
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    for name, address in addresses(sample).items():
        if name != "nothing there":  # its status is written to the log of the browser, as it should be
            page.goto(console.url + address)
            page.wait_for_timeout(50)
    assert [url for url in asked if not url.startswith(console.url)] == []
    assert said == []


def test_everything_works_without_scripts(browser: Browser, console: Served, sample: Sample) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    address = addresses(sample)["release that waits for an approval"]
    page.goto(console.url + address)
    expect(page.get_by_text("not live: reload to see what is new")).to_be_visible()
    expect(page.locator("#rendered")).to_contain_text("in a replay: event time is 11 Dec 2013")
    page.locator("summary", has_text="Approve").click()
    page.locator("#because-approve").fill("figures read with the team")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status")).to_have_text("Recorded.")
    assert console.posted[-1] == (
        f"{address}/approve",
        {"csrf_token": FORM_TOKEN, "because": "figures read with the team"},
    )
    context.close()


def test_a_step_is_waived_from_the_page_of_the_release_it_holds_up(page: Page, console: Served, sample: Sample) -> None:
    address = addresses(sample)["release of a split in doubt"]
    page.goto(console.url + address)
    page.locator("summary", has_text="Waive a step").click()
    page.get_by_label("Step").select_option("1")
    page.locator("#because-waive").fill("judged by hand with the figures of October")
    page.get_by_role("button", name="Waive a step").click()
    # Also because a context that is closed on its way to a page may never say that it is closed.
    expect(page.get_by_role("status")).to_have_text("Recorded.")
    assert console.posted[-1] == (
        "/models/hub/security-wait/waive",
        {
            "csrf_token": FORM_TOKEN,
            "version": "2",
            "environment": "production",
            "skip": "1",
            "because": "judged by hand with the figures of October",
        },
    )


def test_a_form_without_a_reason_is_not_sent(page: Page, console: Served, sample: Sample) -> None:
    page.goto(console.url + addresses(sample)["release under way"])
    before = len(console.posted)
    page.locator("summary", has_text="Abort").click()
    page.get_by_role("button", name="Abort").click()
    expect(page.locator("#because-abort")).to_be_focused()
    assert len(console.posted) == before


def test_what_changes_appears_by_itself_and_disturbs_nothing(page: Page, console: Served, sample: Sample) -> None:
    page.goto(console.url + addresses(sample)["release under way"])
    expect(page.locator("#link")).to_have_text("live")
    page.locator("#evidence-1-data summary").click()
    page.locator("summary", has_text="Pause").click()
    page.locator("#because-pause").fill("half a reas")
    page.evaluate("document.getElementById('live').stays = 'the same element'")
    page.evaluate("document.getElementById('because-pause').stays = 'the same field'")
    scrolled = page.evaluate("scrollTo(0, 140), scrollY")
    with sample.store.write() as tx:
        tx.append(
            Event(
                action=Action.RELEASE_PAUSED,
                at=sample.now,
                actor="grace@example.com",
                workspace="ops",
                kind="release",
                name="flight-delay/production/12",
                because="something that happened just now",
            )
        )
    expect(page.get_by_text("Something that happened just now")).to_be_visible()
    assert page.evaluate("document.getElementById('live').stays") == "the same element"
    assert page.evaluate("document.getElementById('because-pause').stays") == "the same field"
    assert page.locator("#because-pause").input_value() == "half a reas"
    assert page.evaluate("document.activeElement.id") == "because-pause"
    assert page.evaluate("document.getElementById('evidence-1-data').open") is True
    assert page.evaluate("scrollY") == scrolled


def test_a_page_whose_stream_ended_says_that_it_is_not_current(page: Page, sample: Sample) -> None:
    from steersman.testing.served_console import served

    with served(sample.store, sample.now) as place:
        page.goto(place.url)
        expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#link")).to_contain_text("not current")
