"""Reading and writing JSON bodies, the same for every route."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from steersman.domain.errors import BadRequest
from steersman.domain.numbers import number_within

INTEGER_MAX = 2**53 - 1
"""The largest whole number every reader of JSON takes exactly (RFC 8259, section 6)."""


def reply(data: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(data), status, media_type="application/json")


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises BadRequest naming what is wrong."""
    raw = await request.body()
    try:
        found = msgspec.json.decode(raw) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequest("the body must be a JSON object")
    return found


def number_of(request: Request, name: str) -> int:
    """The version number in a route's path."""
    text = str(request.path_params[name])
    number = number_within(text, 0, 999_999_999)
    if number is None:
        raise BadRequest(f"{text[:40]!r} is no version number")
    return number


def field(body: dict[str, Any], name: str, kind: type, default: Any = ...) -> Any:
    """A field of the body, of the kind given. Raises BadRequest when it is missing or of another."""
    value = body.get(name, default)
    if value is ...:
        raise BadRequest(f"the field {name!r} is missing")
    if value is not default and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise BadRequest(f"the field {name!r} must be {kind.__name__}, got {type(value).__name__}")
    if kind is int and value is not default and abs(value) > INTEGER_MAX:  # JSON has no bound, a database has
        raise BadRequest(f"the field {name!r} must be a whole number up to {INTEGER_MAX}")
    return value
