"""Who tells something never waits, what waits is bounded, and what is lost is counted and logged without a secret."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from steersman.domain.access import Secret
from steersman.plugins.notifiers.outbox import Outbox
from steersman.plugins.notifiers.webhook import Delivery, Webhook


class Told:
    """A channel that keeps what it was told; its first `refusals` attempts fail, and it may stand still."""

    def __init__(self, *, refusals: int = 0) -> None:
        self.heard: list[Mapping[str, object]] = []
        self.refusals = refusals
        self.open = threading.Event()
        self.open.set()

    def send(self, message: Mapping[str, object]) -> Delivery:
        assert self.open.wait(5)
        self.refusals -= 1
        if self.refusals >= 0:
            return Delivery(delivered=False, because="chat.example.com answered 503")
        self.heard.append(message)
        return Delivery(delivered=True, because="chat.example.com answered 200")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_messages_arrive_in_order_and_a_short_failure_is_tried_again() -> None:
    channel = Told(refusals=2)
    outbox = Outbox({"ops": channel}, pauses_s=(0.0, 0.0))
    outbox.notify("ops", "first", "because")
    outbox.notify("ops", "second", "because")
    until(lambda: outbox.counts["delivered"] == 2)
    assert channel.heard[0] == {"subject": "first", "text": "first\nbecause"}
    assert channel.heard[1]["subject"] == "second"


def test_nobody_waits_for_a_receiver_and_what_waits_is_bounded() -> None:
    channel = Told()
    channel.open.clear()
    outbox = Outbox({"ops": channel}, waiting_max=3)
    began = time.monotonic()
    for number in range(50):
        outbox.notify("ops", str(number), "")
    assert time.monotonic() - began < 1
    assert outbox.counts["dropped"] >= 46
    channel.open.set()
    until(lambda: outbox.counts.total() == 50)


def test_what_is_lost_is_counted_and_logged_and_the_next_message_goes_out(caplog: pytest.LogCaptureFixture) -> None:
    channel = Told(refusals=3)
    outbox = Outbox({"ops": channel}, pauses_s=(0.0, 0.0))
    outbox.notify("ops", "lost", "")
    outbox.notify("ops", "heard", "")
    outbox.notify("pager", "nobody", "")
    until(lambda: outbox.counts.total() == 3)
    assert dict(outbox.counts) == {"failed": 2, "delivered": 1}
    assert "a message to ops was lost" in caplog.text
    assert "chat.example.com answered 503" in caplog.text


def test_a_channel_that_breaks_ends_nothing() -> None:
    class Broken:
        def send(self, message: Mapping[str, object]) -> Delivery:
            raise RuntimeError("https://chat.example.com/secret-path")

    channel = Told()
    outbox = Outbox({"broken": Broken(), "ops": channel})
    outbox.notify("broken", "a", "")
    outbox.notify("ops", "b", "")
    until(lambda: outbox.counts.total() == 2)
    assert [message["subject"] for message in channel.heard] == ["b"]


def test_the_address_of_a_webhook_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    webhook = Webhook(url=Secret("https://chat.example.com/hooks/s3cret"), resolve=lambda *_: ["127.0.0.1"])
    outbox = Outbox({"ops": webhook}, pauses_s=())
    outbox.notify("ops", "an incident", "")
    until(lambda: outbox.counts["failed"] == 1)
    assert "chat.example.com refused" in caplog.text
    assert "s3cret" not in caplog.text
