"""Attack A5: a webhook as a way into the network. Local servers stand where the attacker points; they must hear nothing.

Those addresses that no local server can have (169.254.169.254 and the like) are judged without a connection, and a
socket module that would connect anywhere fails the test.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steersman.domain.access import Secret
from steersman.domain.errors import BadRequest, Misconfigured, SteersmanError
from steersman.plugins.notifiers import webhook as module
from steersman.plugins.notifiers.webhook import Webhook
from steersman.plugins.secrets import read_secret

LOOPBACK = ("127.0.0.0/8", "::1/128")


class Receiver:
    """An HTTP server on 127.0.0.1 that keeps what it hears."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        heard, answer_headers = self.heard, headers or {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(status)
                for name, value in answer_headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - the name the server looks for

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def to(url: str, **more: object) -> Webhook:
    return Webhook(url=Secret(url), plain_http=True, **more)  # type: ignore[arg-type]


def test_a_message_arrives_as_json_signed_with_the_channels_key(receiver: Receiver) -> None:
    channel = to(
        f"http://127.0.0.1:{receiver.port}/hook?x=1", private_networks=LOOPBACK, signing_key=Secret("signing-key")
    )
    delivery = channel.send({"kind": "incident.opened", "model": "flight-delay", "because": "größer"})
    assert (delivery.delivered, delivery.status) == (True, 200)
    headers, body = receiver.heard[0]
    assert json.loads(body)["because"] == "größer"
    expected = hmac.new(b"signing-key", body, hashlib.sha256).hexdigest()
    assert headers["x-steersman-signature"] == f"sha256={expected}"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "0",
        "[::ffff:7f00:1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "127.0.0.1.",
    ],
)
def test_a5_every_spelling_of_loopback_is_refused_and_hears_nothing(receiver: Receiver, host: str) -> None:
    try:
        delivery = to(f"http://{host}:{receiver.port}/").send({"kind": "test"})
    except BadRequest:
        return
    assert not delivery.delivered
    assert receiver.heard == []


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "::127.0.0.1",
        "::1",
        "::",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_a5_a_name_that_resolves_to_a_private_address_is_refused_before_any_connection(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    connected: list[object] = []
    monkeypatch.setattr(module.socket, "create_connection", lambda *args: connected.append(args))
    delivery = to("https://hooks.example/x", resolve=lambda *_: [address]).send({"kind": "test"})
    assert not delivery.delivered
    assert "not a public address" in delivery.because
    assert connected == []


def test_a5_one_private_address_among_public_ones_refuses_the_name(receiver: Receiver) -> None:
    channel = to(f"http://mixed.example:{receiver.port}/", resolve=lambda *_: ["93.184.215.14", "127.0.0.1"])
    assert not channel.send({"kind": "test"}).delivered
    assert receiver.heard == []


def test_a5_a_rebinding_name_is_resolved_once_and_connected_to_what_was_judged(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([["93.184.215.14"], ["127.0.0.1"], ["127.0.0.1"]])
    connected: list[str] = []

    def refuse(address: tuple[str, int], *_: object) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(module.socket, "create_connection", refuse)
    channel = to(f"http://rebinding.example:{receiver.port}/", resolve=lambda *_: next(answers))
    assert not channel.send({"kind": "test"}).delivered
    assert connected == ["93.184.215.14"]
    assert receiver.heard == []


def test_a5_the_peer_of_the_connected_socket_is_judged_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.create_connection
    monkeypatch.setattr(
        module.socket, "create_connection", lambda _, timeout: real(("127.0.0.1", receiver.port), timeout)
    )
    channel = to(f"http://public.example:{receiver.port}/", resolve=lambda *_: ["93.184.215.14"])
    assert "127.0.0.1 is not a public address" in channel.send({"kind": "test"}).because
    assert receiver.heard == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a5_a_redirect_is_reported_and_never_followed(receiver: Receiver, status: int) -> None:
    first = Receiver(status, {"Location": f"http://127.0.0.1:{receiver.port}/inside"})
    try:
        delivery = to(f"http://127.0.0.1:{first.port}/", private_networks=LOOPBACK).send({"kind": "test"})
    finally:
        first.close()
    assert (delivery.delivered, delivery.status) == (False, status)
    assert "redirects are not followed" in delivery.because
    assert receiver.heard == []


def test_a5_proxies_of_the_environment_are_not_obeyed(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{receiver.port}")
    to("http://10.255.255.1/", deadline_s=0.2).send({"kind": "test"})
    assert receiver.heard == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/",
        "javascript:alert(1)",
        "example.com/hook",
        "https://",
        "https:///path",
        "https://user:pw@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com\\@127.0.0.1/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: inside",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://ex%61mple.com/",
        "https://ｅxample.com/",
        "http://[::1",
        "",
    ],
)
def test_a5_addresses_of_other_kinds_are_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        to(url)
    if len(url) > len("https://"):
        assert url not in str(refused.value) + refused.value.next_step


def test_plain_http_and_wrong_networks_need_the_admins_setting() -> None:
    with pytest.raises(BadRequest):
        Webhook(url=Secret("http://example.com/"))
    with pytest.raises(Misconfigured, match="notify-network"):
        to("https://example.com/", private_networks=("10.0.0.1/8",))


def slow_server(behave: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                behave(connection)
        except OSError:
            return

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], listener


def trickle(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(200):
        connection.sendall(b"X-A: b\r\n")
        time.sleep(0.05)


def test_an_endpoint_that_trickles_is_cut_off_at_the_deadline() -> None:
    port, listener = slow_server(trickle)
    started = time.monotonic()
    with listener:
        delivery = to(f"http://127.0.0.1:{port}/", private_networks=LOOPBACK, deadline_s=0.4).send({"kind": "test"})
    assert not delivery.delivered
    assert time.monotonic() - started < 3


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    def endless(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    port, listener = slow_server(endless)
    with listener:
        delivery = to(f"http://127.0.0.1:{port}/", private_networks=LOOPBACK, deadline_s=5).send({"kind": "test"})
    assert delivery.delivered


def test_a_message_larger_than_the_bound_is_not_sent(receiver: Receiver) -> None:
    channel = to(f"http://127.0.0.1:{receiver.port}/", private_networks=LOOPBACK)
    assert "at most 65536" in channel.send({"x": "y" * 70_000}).because
    assert receiver.heard == []


def test_nobody_listening_is_a_delivery_that_failed_with_the_host_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    delivery = to(f"http://127.0.0.1:{port}/", private_networks=LOOPBACK).send({"kind": "test"})
    assert delivery.because == "127.0.0.1 did not answer: ConnectionRefusedError"
    unresolved = to("https://nowhere.example/", resolve=lambda *_: (_ for _ in ()).throw(socket.gaierror("no")))
    assert unresolved.send({"kind": "test"}).because == "nowhere.example did not answer: gaierror"


CANARY = "canary-5d02b7"


def test_a15_neither_the_address_nor_the_key_of_a_channel_appears_anywhere(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK_KEY", CANARY)
    (tmp_path / "url").write_text(f"http://127.0.0.1:{receiver.port}/{CANARY}\n")
    url, key = read_secret(f"file:{tmp_path / 'url'}"), read_secret("env:HOOK_KEY")
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        good = Webhook(url=url, signing_key=key, plain_http=True, private_networks=LOOPBACK)
        refused = Webhook(url=url, signing_key=key, plain_http=True)
        said += [repr(good), repr(good.send({"kind": "test"})), repr(refused.send({"kind": "test"}))]
        for wrong in (f"ftp://example.com/{CANARY}", f"https://{CANARY}@example.com/"):
            with pytest.raises(BadRequest) as error:
                Webhook(url=Secret(wrong))
            said += [str(error.value), repr(error.value), error.value.next_step]
    assert receiver.heard
    assert CANARY.encode() not in receiver.heard[0][1]
    assert CANARY not in "\n".join([*said, caplog.text, str(receiver.heard[0][0])])


@pytest.mark.parametrize(
    "reference", ["", CANARY, f"plain:{CANARY}", f"env:{CANARY}", "env:A=B", "file:relative", f"https://{CANARY}"]
)
def test_a15_what_is_no_reference_is_refused_without_repeating_it(reference: str) -> None:
    with pytest.raises(SteersmanError) as refused:
        read_secret(reference)
    assert CANARY not in str(refused.value) + refused.value.next_step


def test_a_secret_that_is_missing_or_empty_is_named_by_its_reference(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for reference in ("env:SURELY_NOT_SET_1", f"file:{tmp_path}/none", f"file:{tmp_path}/empty"):
        with pytest.raises(Misconfigured, match="the secret"):
            read_secret(reference)
