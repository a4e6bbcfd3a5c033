"""The real control server before a real browser: logging in with the code that was printed, and out again."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

STARTED_WITHIN_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    url: str
    code: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def running(browser: Browser, tmp_path: Path) -> Iterator[Running]:
    output = tmp_path / "output.txt"
    ports = ["--port", str(free_port()), "--router-port", str(free_port())]
    command = [sys.executable, "-m", "steersman.cli", "up", "--state", str(tmp_path / "state"), "--no-mlflow", *ports]
    with output.open("w") as into:
        process = subprocess.Popen([*command, "--replay-from", "2013-02-27T06:00:00Z"], stdout=into, stderr=into)
    try:
        ends = time.monotonic() + STARTED_WITHIN_S
        found = None
        while found is None and time.monotonic() < ends and process.poll() is None:
            found = re.search(r"console\s+(http://\S+?)/\s+\(one-time code: ([^)\s]+)\)", output.read_text())
            time.sleep(0.1)
        assert found is not None, output.read_text()
        yield Running(url=found[1], code=found[2])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def test_one_logs_in_with_the_printed_code_and_out_again(browser: Browser, running: Running) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(running.url)
    expect(page.get_by_role("heading", name="Please log in")).to_be_visible()
    page.get_by_role("link", name="Log in").click()
    page.get_by_label("One-time code").fill("not-the-code")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("One-time code").fill(running.code)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#clock")).to_contain_text("27 Feb 2013")
    page.get_by_role("link", name="Ledger", exact=True).click()
    expect(page.get_by_text("control.started").first).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto(running.url)
    expect(page.get_by_role("heading", name="Please log in")).to_be_visible()
    context.close()
