"""A real Chromium and the console over the sample's year; without a browser these tests say so and are left out."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from steersman.store.database import Store
from steersman.testing.sample import Sample, build_sample
from steersman.testing.served_console import Served, served

CHROMIUM = Path("/usr/bin/chromium")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")  # Playwright's loop must not outlive the browser tests: others start loops of their own
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    if not CHROMIUM.exists():
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(f"REQUIRE_BROWSER=1, but there is no {CHROMIUM}: install the package chromium")
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("browser: NOT RUN")
        pytest.skip(f"browser: NOT RUN, no {CHROMIUM}")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return build_sample(Store.at(tmp_path_factory.mktemp("sample")))


@pytest.fixture(scope="module")
def console(browser: Browser, sample: Sample) -> Iterator[Served]:
    with served(sample.store, sample.now, key=sample.key) as place:
        yield place
