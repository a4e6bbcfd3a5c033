"""Why a release stands where it stands, what that means, and what a person types next.

One table (`REASONS`) for the command line, the API, the console and the documentation: every way in which a release
waits, pauses or ends is a row with a sentence for a reader who knows nothing but the README, and with the commands that
may come next, each with what it does. `explain` finds the row from the release, its step and its verdicts; it decides
nothing, and a release is never asked to follow from what stands here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from steersman.decide.steps import step_name
from steersman.domain import spec
from steersman.domain.release import Completion, Phase, Release
from steersman.domain.verdicts import Outcome

DEFAULT_WORKSPACE = "default"
DEFAULT_ENVIRONMENT = "production"


class Reason(StrEnum):
    """Kinds of standing, in the order of a release's life; the value is what people read."""

    QUEUED = "waits for another release"
    FROZEN = "frozen"
    GATES_UNDER_WAY = "gates under way"
    STEP_COMING = "step being brought about"
    COLLECTING = "evidence under way"
    RESTING = "timed pause"
    APPROVAL_LACKING = "approval lacking"
    OUTSIDE_ENVELOPE = "outside of the envelope"
    PAUSE_STEP = "pause until resumed"
    HELD = "paused by a person"
    NOTHING_TO_COMPARE = "nothing to compare with"
    UNDECIDED = "inconclusive"
    UNMEASURED = "not measured"
    WORSE = "failed, not critical"
    VERIFYING = "promoted, being verified"
    GATE_FAILED = "gate failed"
    GATE_UNDECIDED = "gate inconclusive"
    GATE_UNMEASURED = "gate not measured"
    GATES_BROKEN = "gates could not be evaluated"
    ANALYSIS_FAILED = "analysis failed"
    UNDECIDED_ENDED = "inconclusive, and ended for that"
    UNMEASURED_ENDED = "not measured, and ended for that"
    GUARDRAIL_BROKEN = "guardrail broken"
    BAKE_FAILED = "bake failed"
    DEADLINE = "progress deadline passed"
    TARGET_FAILED = "could not be run"
    REJECTED = "rejected"
    ABORTED = "aborted by a person"
    SUPERSEDED = "superseded"
    TAKEN_BACK = "taken back by a rollback"
    PROMOTED = "promoted"
    BROUGHT_BACK = "brought back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One command that may come next, and what it does."""

    command: str
    does: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a reason means, how to choose, and between what. Texts have places in braces, see `_places`."""

    means: str
    advice: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A row filled in for one release."""

    reason: Reason
    means: str
    advice: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict of the release as far as it explains: of which kind and step, and how it came out."""

    kind: str
    step: int
    name: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known about one release when somebody asks. `judged`: its verdicts, oldest first; a gate that did not apply
    is left out. `lacking`: approvals still lacking at the present step, `roles` who may give them. `ends_at`: when the
    present step ends by itself, where it does.
    """

    release: Release
    step: spec.Step | None
    judged: tuple[Judged, ...] = ()
    lacking: int = 0
    roles: tuple[str, ...] = ("approver",)
    outside: bool = False
    waits_for: int | None = None
    frozen: str | None = None
    ends_at: datetime | None = None


WHEN_UNDECIDED: Mapping[spec.OnInconclusive, str] = {
    spec.OnInconclusive.PAUSE: "it pauses, and a person resumes or aborts it",
    spec.OnInconclusive.ROLLBACK: "it ends, and the version before goes on answering",
    spec.OnInconclusive.PROMOTE_WITHIN_MARGIN: "it goes on where the estimate itself lies within the margin, and ends "
    "where it does not",
}
"""What happens to an analysis that the data cannot decide within its time, by what the document says."""

_LOOK = Choice(command="steersman releases {release}", does="shows where it stands")
_STATUS = Choice(command="steersman status {model}", does="shows what is live and what is wrong")
_DOCTOR = Choice(command="steersman doctor", does="looks for what is broken")
_HISTORY = Choice(command="steersman history {model}", does="shows what was live, since when, and why")
_RESUME = Choice(command='steersman resume {release} --because "…"', does="lets it go on to the next step")
_ABORT = Choice(command='steersman abort {release} --because "…"', does="ends it; {fallback}")
_APPROVE = Choice(command='steersman approve {release} --because "…"', does="agrees; it goes on when nobody is lacking")
_REJECT = Choice(command='steersman reject {release} --because "…"', does="disagrees and ends it; {fallback}")
_RETRY = Choice(command='steersman retry {release} --because "…"', does="opens a new release of the same version")
_ANOTHER = Choice(command='steersman release {model} VERSION{place} --because "…"', does="releases another version")
_ROLLBACK = Choice(command='steersman rollback {model}{place} --because "…"', does="brings the previous version back")


REASONS: Mapping[Reason, Row] = {
    Reason.QUEUED: Row(
        means="Release {waits_for} is on its way in {environment}; this one begins when that one is promoted or over.",
        advice="Wait, or end one of the two.",
        choices=(_STATUS, _ABORT),
    ),
    Reason.FROZEN: Row(
        means="No release of this model goes on in {environment} now: {frozen}. A rollback is never held up.",
        advice="Wait: it goes on by itself when the freeze is over.",
        choices=(_LOOK, _ABORT),
    ),
    Reason.GATES_UNDER_WAY: Row(
        means="The gates are being evaluated on the holdout; no request of {environment} reaches version {version}.",
        advice="Wait: it goes on or ends by itself.",
        choices=(_LOOK,),
    ),
    Reason.STEP_COMING: Row(
        means="The step {step} has been asked for; workers are starting or the router is taking it up.",
        advice="Wait: it goes on when that is seen, and ends when it takes longer than progressDeadline.",
        choices=(_LOOK,),
    ),
    Reason.COLLECTING: Row(
        means="Version {version} is being compared with {previous}; there is not enough evidence for a verdict yet.",
        advice="Wait: it is judged after every block, and at {ends_at} the document says what happens if the data cannot tell.",
        choices=(_LOOK, _ABORT),
    ),
    Reason.RESTING: Row(
        means="It rests in the step {step} while the guardrails watch; it goes on at {ends_at}.",
        advice="Wait.",
        choices=(_LOOK, _ABORT),
    ),
    Reason.APPROVAL_LACKING: Row(
        means="Version {version} needs {lacking} by {roles} before it goes on; {traffic}.",
        advice="Ask somebody who neither opened this release nor made the version; then one of:",
        choices=(_APPROVE, _REJECT),
    ),
    Reason.OUTSIDE_ENVELOPE: Row(
        means="It was opened automatically, and the change is greater than retrain.envelope allows without a person.",
        advice="Read why below, then one of:",
        choices=(_APPROVE, _REJECT),
    ),
    Reason.PAUSE_STEP: Row(
        means="The document asks for a person at this step ({step}); {traffic}.",
        advice="Look at errors, latency and whatever the pause was put there for, then one of:",
        choices=(_RESUME, _ABORT),
    ),
    Reason.HELD: Row(
        means="A person paused it; {traffic}, and it stays so until a person lets it go on.",
        advice="Ask who paused it, then one of:",
        choices=(
            Choice(command=_RESUME.command, does="lets it go on where it was paused; no analysis is skipped"),
            _ABORT,
        ),
    ),
    Reason.NOTHING_TO_COMPARE: Row(
        means="The version it was compared with was taken back and no other answers, so it cannot prove itself.",
        advice="Look at what happened to the version before, then one of:",
        choices=(Choice(command=_RESUME.command, does="makes it the first version: nothing is compared"), _ABORT),
    ),
    Reason.UNDECIDED: Row(
        means="The time for the analysis is over and the data cannot tell whether version {version} is worse than the "
        "margin allows; onInconclusive is pause, so a person decides. It is no sign that the version is bad.",
        advice="If the interval lies mostly below the margin and you can bear what lies above it, resume; else abort.",
        choices=(_RESUME, _ABORT),
    ),
    Reason.UNMEASURED: Row(
        means="The time for the analysis is over and it could not be measured: no data is never a pass.",
        advice="Find out why (labels that never came, a metric that needs both classes), mend it, abort and retry; "
        "resume only what you judged by other means.",
        choices=(_ABORT, Choice(command=_RESUME.command, does="goes on unmeasured, under your name")),
    ),
    Reason.WORSE: Row(
        means="Version {version} is surely worse than {previous} by more than the margin in a metric that the document does "
        "not call critical, so a person decides.",
        advice="Abort, unless what it is better at outweighs this.",
        choices=(_ABORT, Choice(command=_RESUME.command, does="goes on although it failed, under your name")),
    ),
    Reason.VERIFYING: Row(
        means="Version {version} answers in {environment} and is still judged against {previous}, which stays warm; it is "
        "finished when bake and label horizon have passed ({ends_at}).",
        advice="Nothing to do; if you know that something is wrong:",
        choices=(_ROLLBACK, _STATUS),
    ),
    Reason.GATE_FAILED: Row(
        means="A gate measured version {version} and it is not good enough; {fallback}.",
        advice="Read the failed gate below, train or choose another version, and release that.",
        choices=(_ANOTHER, _HISTORY),
    ),
    Reason.GATE_UNDECIDED: Row(
        means="A gate could not tell from the holdout whether version {version} is good enough; what is undecided does not "
        "pass, and {fallback}.",
        advice="Declare a longer holdout or a wider margin, apply the document, then:",
        choices=(_RETRY,),
    ),
    Reason.GATE_UNMEASURED: Row(
        means="A gate could not be measured, and no data is never a pass; {fallback}.",
        advice="The gate below says what was lacking (a holdout, labels, a metric); mend it, then:",
        choices=(_RETRY, _DOCTOR),
    ),
    Reason.GATES_BROKEN: Row(
        means="The gates could not be carried out at all, which says nothing about version {version}; {fallback}.",
        advice="Mend what the reason names, then:",
        choices=(_DOCTOR, _RETRY),
    ),
    Reason.ANALYSIS_FAILED: Row(
        means="On the same requests version {version} is surely worse than {previous} by more than the margin; {fallback}.",
        advice="Do not retry the same version: train or choose another one, and release that.",
        choices=(_ANOTHER, _HISTORY),
    ),
    Reason.UNDECIDED_ENDED: Row(
        means="The data could not tell within the time for the analysis, and the document ends the release then; "
        "{fallback}. It is no sign that the version is bad.",
        advice="Declare a longer maxDuration or a wider margin, apply the document; see what is to be expected, then retry.",
        choices=(
            Choice(command="steersman plan {model} --version {version}{place}", does="forecasts the next try"),
            _RETRY,
        ),
    ),
    Reason.UNMEASURED_ENDED: Row(
        means="The analysis could not be measured within its time, and no data is never a pass; {fallback}.",
        advice="Find out why (labels that never came, a metric that needs both classes), mend it, then:",
        choices=(_DOCTOR, _RETRY),
    ),
    Reason.GUARDRAIL_BROKEN: Row(
        means="Version {version} broke a limit on errors or latency while it answered; {fallback}.",
        advice="Find the cause in the version's answers; release a mended version, or retry where the cause was outside.",
        choices=(_ANOTHER, _RETRY),
    ),
    Reason.BAKE_FAILED: Row(
        means="After the promotion version {version} turned out surely worse than {previous}; {fallback}.",
        advice="Train or choose another version, and release that.",
        choices=(_ANOTHER, _HISTORY),
    ),
    Reason.DEADLINE: Row(
        means="What a step asked for did not come about within progressDeadline, which says nothing about how good "
        "version {version} is; {fallback}.",
        advice="Look whether workers start and the router answers, then:",
        choices=(_DOCTOR, _RETRY),
    ),
    Reason.TARGET_FAILED: Row(
        means="Version {version} could not be run as the step asks; {fallback}.",
        advice="The reason holds the end of the worker's log; mend the version or the machine, then:",
        choices=(_DOCTOR, _RETRY),
    ),
    Reason.REJECTED: Row(
        means="Somebody who was asked for approval said no; {fallback}.",
        advice="Read the reason; when it is answered:",
        choices=(_RETRY, _ANOTHER),
    ),
    Reason.ABORTED: Row(
        means="A person ended it; {fallback}.",
        advice="Read the reason; when it no longer holds:",
        choices=(_RETRY, _ANOTHER),
    ),
    Reason.SUPERSEDED: Row(
        means="A newer release of the same model took its place before it was promoted.",
        advice="Nothing to do; if this version is wanted after all:",
        choices=(_STATUS, _RETRY),
    ),
    Reason.TAKEN_BACK: Row(
        means="It was promoted, and a person brought the version before it back.",
        advice="Read why in the rollback; a mended version is a new release.",
        choices=(_HISTORY, _ANOTHER),
    ),
    Reason.PROMOTED: Row(
        means="Finished: version {version} proved what the document asks for and became the stable version of {environment}.",
        advice="Nothing to do.",
        choices=(_HISTORY, _ROLLBACK),
    ),
    Reason.BROUGHT_BACK: Row(
        means="Finished: version {version}, promoted before, answers again.",
        advice="See what the version that was left did wrong, and release a mended one.",
        choices=(_HISTORY, _ANOTHER),
    ),
}

if missing := {*Reason} ^ {*REASONS} | {*spec.OnInconclusive} ^ {*WHEN_UNDECIDED}:
    raise ImportError(f"reasons without a row in steersman.decide.explaining: {missing}")

_OPENINGS: tuple[tuple[str, Reason], ...] = (
    ("rejected by ", Reason.REJECTED),
    ("aborted by ", Reason.ABORTED),
    ("rolled back by ", Reason.ABORTED),
    ("taken back by the rollback", Reason.TAKEN_BACK),
    ("gates could not be evaluated", Reason.GATES_BROKEN),
    ("guardrail broken", Reason.GUARDRAIL_BROKEN),
    ("failed in the bake", Reason.BAKE_FAILED),
)
"""How the reason of an end begins that no verdict tells apart; `rolling_out` and `commands` write them, a test compares."""


def explain(known: Circumstances) -> Standing:
    """The row of the table that holds for a release, filled in."""
    reason = reason_of(known)
    row, places = REASONS[reason], _places(known)
    return Standing(
        reason=reason,
        means=row.means.format_map(places),
        advice=row.advice.format_map(places),
        choices=tuple(
            Choice(command=choice.command.format_map(places), does=choice.does.format_map(places))
            for choice in row.choices
        ),
    )


def reason_of(known: Circumstances) -> Reason:
    """Which row holds; the release's own state first, then its verdicts, then the words its reason begins with."""
    release = known.release
    ending = release.completion or (release.ending if release.phase is Phase.DEGRADED else None)
    if ending is not None:
        return _ended(known, ending)
    if release.phase is Phase.VERIFYING:
        return Reason.VERIFYING
    if release.phase is Phase.PAUSED:
        return _paused(known)
    if known.frozen is not None:
        return Reason.FROZEN
    if release.phase is Phase.PENDING:
        return Reason.QUEUED if known.waits_for is not None else Reason.GATES_UNDER_WAY
    if release.entered and isinstance(known.step, spec.Analysis):
        return Reason.COLLECTING
    return Reason.RESTING if release.entered and isinstance(known.step, spec.Pause) else Reason.STEP_COMING


def _paused(known: Circumstances) -> Reason:
    release = known.release
    if release.held:
        return Reason.HELD if release.because.startswith("paused by ") else Reason.NOTHING_TO_COMPARE
    if release.resumes is Phase.PENDING:
        return Reason.OUTSIDE_ENVELOPE if known.outside else Reason.APPROVAL_LACKING
    if isinstance(known.step, spec.Approval):
        return Reason.APPROVAL_LACKING
    if not isinstance(known.step, spec.Analysis):
        return Reason.PAUSE_STEP
    outcomes = _outcomes(known, "analysis")
    if Outcome.FAILED in outcomes:
        return Reason.WORSE
    measured = set(known.step.metrics) <= {j.name for j in known.judged if j.kind == "analysis"}
    return Reason.UNDECIDED if measured and Outcome.ERROR not in outcomes else Reason.UNMEASURED


def _ended(known: Circumstances, ending: Completion) -> Reason:
    release = known.release
    simple = {
        Completion.PROMOTED: Reason.PROMOTED,
        Completion.FAST_PROMOTED: Reason.PROMOTED,
        Completion.FAST_ROLLED_BACK: Reason.BROUGHT_BACK,
        Completion.SUPERSEDED: Reason.SUPERSEDED,
    }
    if ending in simple:
        return simple[ending]
    for opening, reason in _OPENINGS:
        if release.because.startswith(opening):
            return reason
    if "within progressDeadline" in release.because:
        return Reason.DEADLINE
    if release.because.startswith("gate failed"):
        gates = _outcomes(known, "gate")
        if Outcome.FAILED in gates:
            return Reason.GATE_FAILED
        return Reason.GATE_UNMEASURED if Outcome.ERROR in gates else Reason.GATE_UNDECIDED
    analysed = _outcomes(known, "analysis")
    if Outcome.FAILED in analysed:
        return Reason.ANALYSIS_FAILED
    if "undecided after" in release.because:
        decided = Outcome.ERROR not in analysed and "nothing was measured" not in release.because
        return Reason.UNDECIDED_ENDED if decided else Reason.UNMEASURED_ENDED
    return Reason.TARGET_FAILED


def _outcomes(known: Circumstances, kind: str) -> set[Outcome]:
    """How the newest verdicts of a kind came out; those of an analysis at the present step only."""
    newest = {
        judged.name: judged.outcome
        for judged in known.judged
        if judged.kind == kind and (kind == "gate" or judged.step == known.release.step)
    }
    return set(newest.values())


def _places(known: Circumstances) -> Mapping[str, str]:
    """What the braces in the table stand for."""
    release = known.release
    previous = f"version {release.previous.version}" if release.previous else "no version"
    in_default = release.environment == DEFAULT_ENVIRONMENT
    count = max(known.lacking, 1)
    return {
        "release": release.id,
        "model": release.model if release.workspace == DEFAULT_WORKSPACE else f"{release.workspace}/{release.model}",
        "place": "" if in_default else f" --environment {release.environment}",
        "environment": release.environment,
        "version": str(release.version),
        "previous": previous,
        "step": "" if known.step is None else step_name(known.step),
        "waits_for": str(known.waits_for),
        "frozen": str(known.frozen),
        "lacking": f"{count} more approval{'' if count == 1 else 's'}",
        "roles": _either(known.roles),
        "ends_at": "the end of its time" if known.ends_at is None else f"{known.ends_at:%Y-%m-%d %H:%M} UTC",
        "traffic": _traffic(release),
        "fallback": _fallback(release),
    }


def _either(words: Iterable[str]) -> str:
    return " or ".join(f"the role {word}" for word in words)


def _traffic(release: Release) -> str:
    if not release.weight_pct:
        return f"version {release.version} answers nobody meanwhile"
    return f"version {release.version} meanwhile answers {release.weight_pct:g} % of the requests"


def _fallback(release: Release) -> str:
    """Who answers when the release is over without a promotion."""
    if release.previous is None:
        return f"nothing answers in {release.environment}" if release.exposed else "it never answered anybody"
    how = "again" if release.exposed else "as before"
    return f"version {release.previous.version} answers {how} in {release.environment}"
