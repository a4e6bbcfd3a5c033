"""Where an installation keeps the tables of its inference log, and how its processes are told.

`steersman up --tables s3://bucket/prefix` is written into `installation.json`, credentials only as references. The committer,
which writes, and the control server, which reads, get the place and what the references stand for in their environment.
A place is chosen once: the tables do not move by themselves, and half a log in each of two places helps nobody.
"""

import re
from pathlib import Path

import msgspec

from steersman.dataplane.storage import LOCATION, StorageError, StorageRefusedError, open_storage, parse_uri
from steersman.domain.errors import BadRequest, Conflict, Misconfigured
from steersman.plugins.secrets import read_secret
from steersman.server.installation import Installation, Tables

_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]{1,260}/?")


def tables_variables(installation: Installation) -> dict[str, str]:
    """The variables for committer and control server, secrets among them; empty for tables in the state directory.

    Raises Misconfigured where a reference leads nowhere.
    """
    place = installation.tables
    if place is None:
        return {}
    found = {LOCATION: place.uri}
    if place.endpoint is not None:
        found["AWS_ENDPOINT_URL"] = place.endpoint
    if place.region is not None:
        found["AWS_REGION"] = place.region
    if place.key is not None and place.secret is not None:
        found["AWS_ACCESS_KEY_ID"] = read_secret(place.key).reveal()
        found["AWS_SECRET_ACCESS_KEY"] = read_secret(place.secret).reveal()
    return found


def tables_of_arguments(
    uri: str | None, endpoint: str | None, region: str | None, key: str | None, secret: str | None
) -> Tables | None:
    """What `--tables` and its companions say. Raises BadRequest naming the flag, never its value where it may be secret."""
    if uri is None:
        if any((endpoint, region, key, secret)):
            raise BadRequest("--tables-… belongs to --tables", next_step="Give --tables s3://bucket/prefix.")
        return None
    try:
        parse_uri(uri)
    except ValueError as error:
        raise BadRequest(f"--tables: {error}") from None
    if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
        raise BadRequest("--tables-endpoint is no address", next_step="Write https://host or http://host:port.")
    if (key is None) != (secret is None):
        raise BadRequest("a key needs its secret", next_step="Give both --tables-key and --tables-secret.")
    return Tables(uri=uri, endpoint=endpoint, region=region, key=key, secret=secret)


def keep_place(state: Path, wanted: Installation, known: Installation | None) -> Installation:
    """`wanted` with the place the installation has; raises Conflict where it asks for another one."""
    if known is None:
        return wanted
    if wanted.tables is None:
        return msgspec.structs.replace(wanted, tables=known.tables)
    before = known.tables.uri if known.tables is not None else None
    holds = known.tables is not None or any((state / "tables").glob("*"))
    if before != wanted.tables.uri and holds:
        raise Conflict(
            f"the tables of this installation are in {before or state / 'tables'}, not in {wanted.tables.uri}",
            next_step="Copy them, with everything stopped, then set `tables` in installation.json; or use another --state.",
        )
    return wanted


def check_place(state: Path, installation: Installation) -> str | None:
    """Raises Misconfigured where the place refuses for good; a sentence where it does not answer, which passes."""
    try:
        open_storage(state, tables_variables(installation)).check()
    except StorageRefusedError as error:
        raise Misconfigured(
            f"the tables cannot be kept there: {error}", next_step="Correct --tables, --tables-key or --tables-secret."
        ) from None
    except StorageError as error:
        return f"{error}; predictions are kept in the log until it answers"
    return None
