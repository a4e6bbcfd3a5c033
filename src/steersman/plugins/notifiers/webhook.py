"""Tells people by a POST of JSON to an address an admin chose, without becoming a way into the network.

A webhook makes this server call where somebody points it, which is how metadata services and databases behind the
firewall get called (server-side request forgery). Looking at the name is not enough, since a name can resolve to
something else a moment later. So the name is resolved once, *each* address is judged, and the connection goes to a
judged address, which is looked at again on the connected socket. No redirect is followed, no proxy setting of the
environment is obeyed, the answer is read up to a bound and not kept, and one deadline covers the whole exchange.

Private, loopback and link-local addresses are refused unless the installation's setting lists their network. The
address itself often carries a credential in its path, so it is a `Secret` throughout; messages name the host alone.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from steersman.domain.access import Secret
from steersman.domain.errors import BadRequest, Misconfigured

DEADLINE_S = 10.0
"""Wall time of one delivery from connect to the end of the answer; resolving the name is bounded by the resolver."""

BODY_BYTES_MAX = 64 * 1024
"""Largest message sent, and most of an answer that is read."""

ADDRESSES_MAX = 8
"""Addresses of one name that are tried, in the resolver's order."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}", re.ASCII)

_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All global IPv6 addresses in use; what lies outside is special, NAT64 and IPv4-compatible forms among it."""

_TUNNELS = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))
"""6to4 and Teredo: they carry an IPv4 address inside, and no receiver of messages has one."""


class RefusedPeer(Exception):
    """The address is one this server must not call; the message names the host and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one notification. A failed delivery is a fact to show, not an exception."""

    delivered: bool
    because: str
    status: int | None = None


def resolve_name(host: str, port: int) -> list[str]:
    """Numeric addresses of `host`, in the resolver's order and without repetition."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in found))


def judged(text: str, permitted: Sequence[Network]) -> Address:
    """The address, when it is public or in a permitted network; raises `RefusedPeer` otherwise."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in permitted if network.version == address.version):
        return address
    special = isinstance(address, ipaddress.IPv6Address) and (
        address not in _UNICAST or any(address in tunnel for tunnel in _TUNNELS)
    )
    if special or not address.is_global or address.is_multicast or address.is_reserved:
        raise RefusedPeer(f"{address} is not a public address")
    return address


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Where messages go, parsed once."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: Secret, schemes: frozenset[str]) -> Channel:
        """Raises `BadRequest`; the message never repeats the address."""
        text = url.reveal()
        refused = BadRequest(
            "the webhook's address is not allowed",
            next_step=f"Use {' or '.join(sorted(schemes))}://host[:port]/path without user, password or spaces.",
        )
        if not text.isascii() or not text.isprintable() or " " in text or "\\" in text or "@" in text.partition("?")[0]:
            raise refused
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise refused from None
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in schemes or not _HOST.fullmatch(host) or port == 0:
            raise refused
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        default = 443 if parts.scheme == "https" else 80
        return cls(scheme=parts.scheme, host=host, port=port or default, target=target)


class _Connection(http.client.HTTPConnection):
    """A connection to a judged address that speaks to, and verifies, the host of the name.

    A socket's time-out starts anew with every byte, so a timer ends the exchange at the deadline.
    """

    def __init__(self, channel: Channel, address: Address, permitted: Sequence[Network], deadline: float) -> None:
        self._left_s = max(0.1, deadline - time.monotonic())
        super().__init__(channel.host, channel.port, timeout=self._left_s)
        self._channel = channel
        self._address = address
        self._permitted = permitted
        self._timer: threading.Timer | None = None

    def connect(self) -> None:
        self.sock = socket.create_connection((str(self._address), self._channel.port), self._left_s)
        judged(self.sock.getpeername()[0], self._permitted)
        self._timer = threading.Timer(self._left_s, self._end)
        self._timer.daemon = True
        self._timer.start()
        if self._channel.scheme == "https":
            context = ssl.create_default_context()
            wrapped = context.wrap_socket(self.sock, server_hostname=self._channel.host, do_handshake_on_connect=False)
            self.sock = wrapped
            wrapped.do_handshake()

    def _end(self) -> None:
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except (OSError, TypeError):
            return  # closed already

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()


class Webhook:
    """One channel. `send` blocks up to the deadline and never raises on what the network does."""

    def __init__(
        self,
        *,
        url: Secret,
        signing_key: Secret | None = None,
        private_networks: Sequence[str] = (),
        plain_http: bool = False,
        deadline_s: float = DEADLINE_S,
        resolve: Resolve = resolve_name,
    ) -> None:
        """`private_networks` (CIDR) and `plain_http` are the installation's choice, never a document's."""
        self._channel = Channel.parse(url, frozenset({"https", "http"} if plain_http else {"https"}))
        try:
            self._permitted = tuple(ipaddress.ip_network(text) for text in private_networks)
        except ValueError as error:
            raise Misconfigured(f"--notify-network: {error}", next_step="Write networks as 10.0.0.0/8.") from None
        self._signing_key = signing_key
        self._deadline_s = deadline_s
        self._resolve = resolve

    def __repr__(self) -> str:
        return f"Webhook({self._channel.scheme}://{self._channel.host})"

    def send(self, message: Mapping[str, object]) -> Delivery:
        body = json.dumps(message, ensure_ascii=False, sort_keys=True).encode()
        if len(body) > BODY_BYTES_MAX:
            return Delivery(delivered=False, because=f"the message has {len(body)} bytes, at most {BODY_BYTES_MAX} go")
        deadline = time.monotonic() + self._deadline_s
        host = self._channel.host
        try:
            addresses = [
                judged(text, self._permitted) for text in list(self._resolve(host, self._channel.port))[:ADDRESSES_MAX]
            ]
            if not addresses:
                return Delivery(delivered=False, because=f"{host} has no address")
            status = self._post(addresses, body, deadline)
        except RefusedPeer as refused:
            return Delivery(delivered=False, because=f"{host} refused: {refused}; see `steersman up --notify-network`")
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = " (deadline)" if time.monotonic() >= deadline else ""
            return Delivery(delivered=False, because=f"{host} did not answer: {type(error).__name__}{late}")
        if not 200 <= status < 300:
            moved = ": redirects are not followed" if 300 <= status < 400 else ""
            return Delivery(delivered=False, because=f"{host} answered {status}{moved}", status=status)
        return Delivery(delivered=True, because=f"{host} answered {status}", status=status)

    def _post(self, addresses: Sequence[Address], body: bytes, deadline: float) -> int:
        """The status of the answer from the first address that accepts a connection."""
        failed: OSError | None = None
        for address in addresses:
            with closing(_Connection(self._channel, address, self._permitted, deadline)) as connection:
                try:
                    connection.connect()
                except ssl.SSLError:
                    raise
                except OSError as error:
                    failed = error
                    continue
                connection.request("POST", self._channel.target, body, self._headers(body))
                response = connection.getresponse()
                response.read(BODY_BYTES_MAX)
                if time.monotonic() >= deadline:  # cut off by the timer, which a parser takes for the end
                    raise TimeoutError
                return response.status
        raise failed or OSError("no address")

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "steersman", "Connection": "close"}
        if self._signing_key is not None:
            signature = hmac.new(self._signing_key.reveal().encode(), body, hashlib.sha256).hexdigest()
            headers["X-Steersman-Signature"] = f"sha256={signature}"
        return headers
