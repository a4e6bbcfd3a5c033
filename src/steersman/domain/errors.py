"""Every way Steersman says no: one tree, one class for each thing a caller can do about it.

An error carries a `code` that programs match on, a message with the numbers, and a `next_step` for people. The control
server writes it as JSON, the client reads it back into the same class, the command line shows it; `docs/errors.md` has
a heading for each. Messages never hold a secret: they are logged, shown and kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a document: where, and what."""

    path: str
    """Of the part that holds the fault, such as `spec.gates[0]`; empty at the top."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SteersmanError(Exception):
    """The root of the tree: whatever Steersman raises on purpose."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    """The HTTP status it travels with."""
    next_step_default: ClassVar[str] = "Run `steersman doctor`, and read the log of the process named in the message."

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = self.next_step_default if next_step is None else next_step

    def to_wire(self) -> dict[str, object]:
        """The body of an HTTP answer: `{"error": {...}}`."""
        return {"error": {"code": self.code, "message": self.message, "nextStep": self.next_step}}


class BadRequest(SteersmanError):
    """The request itself is wrong; sending it again does not help."""

    code = "bad_request"
    status = 400
    next_step_default = "Correct the argument named in the message and try again."


class BadDocument(BadRequest):
    """A document does not say what it must, or says what cannot be. It lists all problems found, not only the first."""

    code = "bad_document"
    status = 422
    next_step_default = "Correct the fields named above; `steersman schema KIND` prints what is allowed."

    def __init__(self, problems: Sequence[Problem], *, source: str = "", next_step: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = [f"{source}: {problem}" if source else str(problem) for problem in self.problems]
        super().__init__("\n".join(lines), next_step=next_step)

    def to_wire(self) -> dict[str, object]:
        error = {"code": self.code, "message": self.message, "nextStep": self.next_step, "source": self.source}
        return {"error": {**error, "problems": [{"path": p.path, "message": p.message} for p in self.problems]}}


class NotSupported(BadRequest):
    """Understood, but this installation, target or version of Steersman cannot do it; it is never silently ignored."""

    code = "not_supported"
    status = 422
    next_step_default = "Use what the message offers instead."


class NotFound(SteersmanError):
    """There is nothing by that name, or the caller may not know that there is."""

    code = "not_found"
    status = 404
    next_step_default = "Check the name; `steersman status` lists the models you can see."


class NotAuthenticated(SteersmanError):
    """The caller did not prove who they are: no token, an expired one, or one that was revoked."""

    code = "not_authenticated"
    status = 401
    next_step_default = "Give a valid token: `--token`, STEERSMAN_TOKEN, or the state directory's credentials."


class NotAllowed(SteersmanError):
    """The caller is known, and the permission for this is missing."""

    code = "not_allowed"
    status = 403
    next_step_default = "Ask an admin of the workspace for the permission named in the message."


class Conflict(SteersmanError):
    """Not possible in the present state: it changed meanwhile, or the action does not fit the phase."""

    code = "conflict"
    status = 409
    next_step_default = "Look at the present state with `steersman status` and decide again."


class Blocked(SteersmanError):
    """A rule stands in the way: a gate failed, an approval is missing, a freeze is in force."""

    code = "blocked"
    status = 412
    next_step_default = "Satisfy the rule named in the message, or have someone entitled to it approve."


class VersionRefused(Blocked):
    """A version's bytes are not what may run here: unknown, not what was claimed, or code. Nothing of it was kept."""

    code = "version_refused"
    next_step_default = "Register the model in a data-only format: LightGBM, XGBoost, ONNX or skops."


class LimitReached(SteersmanError):
    """A bound was reached: a disk, a queue, a rate, a size. Nothing acknowledged is lost."""

    code = "limit_reached"
    status = 429
    next_step_default = "Free what the message names, or raise the setting it names; then try again."


class Unavailable(SteersmanError):
    """Something needed does not answer now: control server, registry, worker. The same request may succeed later."""

    code = "unavailable"
    status = 503
    next_step_default = "Check that it runs (`steersman doctor`), then try again."


class Misconfigured(SteersmanError):
    """The installation is not set up for this: a missing package, a port in use, a directory that cannot be written."""

    code = "misconfigured"
    status = 500
    next_step_default = "Run `steersman doctor`; it names what is missing and how to get it."


class NotVerified(SteersmanError):
    """A proof does not hold: a ledger, a checkpoint or a digest is not what it claims to be."""

    code = "not_verified"
    status = 500
    next_step_default = "Keep the files as they are, compare with an earlier checkpoint, and treat it as an incident."


def tree() -> tuple[type[SteersmanError], ...]:
    """All classes, the root first, in the order of definition."""
    found: list[type[SteersmanError]] = [SteersmanError]
    for error in found:
        found.extend(sub for sub in error.__subclasses__() if sub not in found)
    return tuple(found)


def from_wire(status: int, body: object) -> SteersmanError:
    """The error an HTTP answer carries; an answer in no known form becomes the class that fits its status."""
    error = body.get("error") if isinstance(body, Mapping) else None
    by_code = {cls.code: cls for cls in tree()}
    if isinstance(error, Mapping) and isinstance(error.get("message"), str):
        next_step = error.get("nextStep")
        step = next_step if isinstance(next_step, str) else None
        cls = by_code.get(str(error.get("code")), SteersmanError)
        if issubclass(cls, BadDocument):
            problems = error.get("problems")
            listed = problems if isinstance(problems, list) else []
            found = [Problem(path=str(p.get("path", "")), message=str(p.get("message", ""))) for p in listed]
            return cls(found, source=str(error.get("source") or ""), next_step=step)
        return cls(str(error["message"]), next_step=step)
    by_status = {cls.status: cls for cls in reversed(tree()) if cls is not BadDocument and cls is not NotSupported}
    # The Open Inference Protocol, which router and workers speak, has a bare sentence there.
    said = f"the server answered {status}" + (f": {error}" if isinstance(error, str) else "")
    if status >= 500:
        return (Unavailable if status in (502, 503, 504) else SteersmanError)(said)
    return by_status.get(status, BadRequest)(said)
