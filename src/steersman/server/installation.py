"""What one installation is: its addresses, its registries, what it trusts; one file in the state directory.

The supervisor writes it before it starts anything; the control server reads it and nothing else, so that both always
mean the same ports and a restart finds what the first start chose. Secrets are not in it: keys have a folder of their own.
"""

import os
from datetime import datetime
from pathlib import Path

import msgspec

from steersman.domain.errors import Misconfigured

FILE = "installation.json"


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """Tables on an object store. `key` and `secret` say where the credentials lie (`env:NAME`, `file:/path`)."""

    uri: str
    endpoint: str | None = None
    region: str | None = None
    key: str | None = None
    secret: str | None = None


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """`routers` is how many router processes share the router's port.

    `registries` maps a name that documents use to an address: ``embedded``, an MLflow URI, or ``directory:/path``.
    `registry_tokens` says by the same names where a registry's token lies (`env:NAME`, `file:/path`), never what it is;
    with a name in `registry_users` it is that user's password.

    `code_models` are `workspace/model` names whose versions may carry code (pickle, pyfunc): whoever can register a
    version of such a model can run code in its workers. `hosts` are further names this server answers to.

    `notify` says by the names documents use where a webhook's address lies (it often carries a credential);
    `notify_networks` are private networks (CIDR) such an address may be in. Without `tables` the tables of the inference
    log are in the state directory.
    """

    host: str = "127.0.0.1"
    port: int = 7700
    router_port: int = 7701
    routers: int = 1
    registries: dict[str, str] = msgspec.field(default_factory=lambda: {"mlflow": "embedded"})
    registry_tokens: dict[str, str] = {}
    registry_users: dict[str, str] = {}
    code_models: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    notify: dict[str, str] = {}
    notify_networks: tuple[str, ...] = ()
    replay_from: datetime | None = None
    tables: Tables | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def router_url(self) -> str:
        return f"http://{self.host}:{self.router_port}"


def load(state: Path) -> Installation:
    """Raises Misconfigured when the file is missing or unreadable."""
    try:
        return msgspec.json.decode((state / FILE).read_bytes(), type=Installation)
    except (OSError, msgspec.MsgspecError) as error:
        raise Misconfigured(
            f"{state / FILE} cannot be read: {error}", next_step=f"Start with `steersman up --state {state}`."
        ) from None


def save(state: Path, installation: Installation) -> None:
    """Replace the file in one step."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = state / f"{FILE}.new"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(installation)))
    os.replace(draft, state / FILE)
