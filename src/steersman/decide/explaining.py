"""Why a release stands where it stands, what that means, and what a person types next.

One table (`REASONS`) for the command line, the API, the console and the documentation: every way in which a release
waits, pauses or ends is a row with a sentence for a reader who knows nothing but the README, and with the commands that
may come next, each with what it does. `explain` finds the row from the cause that was recorded when the release stopped,
or, while nothing stopped it, from what it stands before; it decides nothing, and a release is never asked to follow from
what stands here. No sentence is ever read: `because` is for people.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from steersman.decide.steps import step_name
from steersman.domain import spec
from steersman.domain.release import Cause, Completion, Opened, Phase, Release
from steersman.domain.verdicts import Doubt

DEFAULT_WORKSPACE = "default"
DEFAULT_ENVIRONMENT = "production"


class Reason(StrEnum):
    """Kinds of standing, in the order of a release's life; the value is what people read."""

    QUEUED = "waits for another release"
    FROZEN = "frozen"
    BUDGET_USED_UP = "error budget used up"
    GATES_UNDER_WAY = "gates under way"
    STEP_COMING = "step being brought about"
    COMING_BACK = "on the way back"
    COLLECTING = "evidence under way"
    LABELS_AWAITED = "labels awaited"
    SPLIT_DOUBTED = "split not as asked"
    RESTING = "timed pause"
    APPROVAL_LACKING = "approval lacking"
    OUTSIDE_ENVELOPE = "outside of the envelope"
    PAUSE_STEP = "pause until resumed"
    HELD = "paused by a person"
    NOTHING_TO_COMPARE = "nothing to compare with"
    UNDECIDED = "inconclusive"
    UNMEASURED = "not measured"
    UNLABELLED = "labels lacking"
    MISSPLIT = "split was not as asked"
    WORSE = "failed, not critical"
    PAUSED_BEFORE = "paused, cause not recorded"
    VERIFYING = "promoted, being verified"
    GATE_FAILED = "gate failed"
    GATE_UNDECIDED = "gate inconclusive"
    GATE_UNMEASURED = "gate not measured"
    GATES_BROKEN = "gates could not be evaluated"
    ANALYSIS_FAILED = "analysis failed"
    UNDECIDED_ENDED = "inconclusive, and ended for that"
    UNMEASURED_ENDED = "not measured, and ended for that"
    UNLABELLED_ENDED = "labels lacking, and ended for that"
    MISSPLIT_ENDED = "split was not as asked, and ended for that"
    GUARDRAIL_BROKEN = "guardrail broken"
    BAKE_FAILED = "bake failed"
    DEADLINE = "progress deadline passed"
    TARGET_FAILED = "could not be run"
    REJECTED = "rejected"
    ABORTED = "aborted by a person"
    SUPERSEDED = "superseded"
    TAKEN_BACK = "taken back by a rollback"
    PROMOTED = "promoted"
    UNPROVEN = "promoted, unproven"
    BROUGHT_BACK = "brought back"
    ENDED_BEFORE = "ended, cause not recorded"


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
class Circumstances:
    """What is known about one release when somebody asks. `lacking`: approvals still lacking at the present step, `roles`
    who may give them. `waits_for`: the release on its way before this one. `frozen`, `exhausted`: why a freeze or an error
    budget keeps it where it is. `doubt`: what is wrong with the comparison of the present step so far, `doubted` in words.
    `ends_at`: when the present step ends by itself, where it does.
    """

    release: Release
    step: spec.Step | None
    lacking: int = 0
    roles: tuple[str, ...] = ("approver",)
    waits_for: int | None = None
    frozen: str | None = None
    exhausted: str | None = None
    doubt: Doubt | None = None
    doubted: str = ""
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
_UNMEASURED = Choice(command=_RESUME.command, does="goes on unmeasured, under your name")
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
    Reason.BUDGET_USED_UP: Row(
        means="The document lets no release go on while the error budget of {environment} is used up; it {exhausted}. A "
        "rollback is never held up.",
        advice="Find what errs in the version that answers and mend it, or wait: it goes on by itself once errors are rare "
        "again.",
        choices=(_STATUS, _ABORT),
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
    Reason.COMING_BACK: Row(
        means="Version {version}, promoted before, is being brought back to {environment}; no gate and no analysis holds it "
        "up.",
        advice="Wait: seconds while it is kept warm, else as long as a worker takes to start.",
        choices=(_LOOK, _STATUS),
    ),
    Reason.COLLECTING: Row(
        means="Version {version} is being compared with {previous}; there is not enough evidence for a verdict yet.",
        advice="Wait: it is judged after every block, and at {ends_at} the document says what happens if the data cannot tell.",
        choices=(_LOOK, _ABORT),
    ),
    Reason.LABELS_AWAITED: Row(
        means="Version {version} is being compared with {previous}, but too few of its requests have a label: {doubted}. "
        "Nothing is concluded before they come.",
        advice="Look whether labels are being sent, and under the key that groundTruth names; those that come before {ends_at} "
        "count. Afterwards no data is no pass.",
        choices=(_LOOK, _ABORT),
    ),
    Reason.SPLIT_DOUBTED: Row(
        means="The versions did not get the shares of requests that were asked for ({doubted}), so that whatever is measured "
        "compares two different crowds: nothing is concluded from it.",
        advice="Waiting does not mend it. Find out who is kept out of one arm (lost requests, callers that retry, one value of "
        "stickyBy that many share), abort, and retry.",
        choices=(_ABORT, _DOCTOR),
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
        "margin allows; the document leaves it to a person then. It is no sign that the version is bad.",
        advice="If the interval lies mostly below the margin and you can bear what lies above it, resume; else abort.",
        choices=(_RESUME, _ABORT),
    ),
    Reason.UNMEASURED: Row(
        means="The time for the analysis is over and it could not be measured: no data is never a pass.",
        advice="Find out why (too little traffic, a metric that needs both classes, a column the log does not keep), mend it, "
        "abort and retry; resume only what you judged by other means.",
        choices=(_ABORT, _UNMEASURED),
    ),
    Reason.UNLABELLED: Row(
        means="The time for the analysis is over and too few requests of one or both versions have a label: no data is never "
        "a pass.",
        advice="Look whether labels are being sent, and under the key that groundTruth names; then abort and retry. Resume "
        "only what you judged by other means.",
        choices=(_ABORT, _UNMEASURED),
    ),
    Reason.MISSPLIT: Row(
        means="The time for the analysis is over, and the versions did not get the shares of requests that were asked for: "
        "what was measured compares two different crowds, and is no evidence.",
        advice="Find out who is kept out of one arm (lost requests, callers that retry, one value of stickyBy that many "
        "share), abort, and retry.",
        choices=(_ABORT, _UNMEASURED),
    ),
    Reason.WORSE: Row(
        means="Version {version} is surely worse than {previous} by more than the margin in a metric that the document does "
        "not call critical, so a person decides.",
        advice="Abort, unless what it is better at outweighs this.",
        choices=(_ABORT, Choice(command=_RESUME.command, does="goes on although it failed, under your name")),
    ),
    Reason.PAUSED_BEFORE: Row(
        means="It was paused by a Steersman of before, which kept the sentence only: read it under `because`; {traffic}.",
        advice="Look at the evidence, then one of:",
        choices=(_LOOK, _RESUME, _ABORT),
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
        means="Compared with {previous}, version {version} is surely worse by more than the margin; {fallback}.",
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
        advice="Find out why (too little traffic, a metric that needs both classes, a column the log does not keep), mend it, "
        "then:",
        choices=(_DOCTOR, _RETRY),
    ),
    Reason.UNLABELLED_ENDED: Row(
        means="Too few requests had a label within the time for the analysis, and no data is never a pass; {fallback}.",
        advice="Look whether labels are being sent, and under the key that groundTruth names; then:",
        choices=(_DOCTOR, _RETRY),
    ),
    Reason.MISSPLIT_ENDED: Row(
        means="The versions did not get the shares of requests that were asked for, so that what was measured is no evidence; "
        "{fallback}.",
        advice="Find out who is kept out of one arm (lost requests, callers that retry, one value of stickyBy that many "
        "share), then:",
        choices=(_DOCTOR, _RETRY),
    ),
    Reason.GUARDRAIL_BROKEN: Row(
        means="Version {version} broke a limit on errors or latency; {fallback}.",
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
        means="It was promoted, and a rollback brought the version before it back.",
        advice="Read why in the rollback; a mended version is a new release.",
        choices=(_HISTORY, _ANOTHER),
    ),
    Reason.PROMOTED: Row(
        means="Finished: version {version} proved what the document asks for and became the stable version of {environment}.",
        advice="Nothing to do.",
        choices=(_HISTORY, _ROLLBACK),
    ),
    Reason.UNPROVEN: Row(
        means="Version {version} answers in {environment}, but its bake ended without a measurement of what it was to measure: "
        "no data is no proof, so it counts for no next environment and is not known to be good.",
        advice="Find out why (labels that never came, too little traffic, a metric that cannot be measured) and mend it; what is "
        "released next is measured again.",
        choices=(_STATUS, _DOCTOR, _ROLLBACK),
    ),
    Reason.BROUGHT_BACK: Row(
        means="Finished: version {version}, promoted before, answers again.",
        advice="See what the version that was left did wrong, and release a mended one.",
        choices=(_HISTORY, _ANOTHER),
    ),
    Reason.ENDED_BEFORE: Row(
        means="It was ended by a Steersman of before, which kept the sentence only: read it under `because`; {fallback}.",
        advice="When what it names is mended:",
        choices=(_RETRY, _ANOTHER),
    ),
}

PAUSED: Mapping[Cause, Reason] = {
    Cause.HELD: Reason.HELD,
    Cause.PAUSE_STEP: Reason.PAUSE_STEP,
    Cause.APPROVAL_LACKING: Reason.APPROVAL_LACKING,
    Cause.OUTSIDE_ENVELOPE: Reason.OUTSIDE_ENVELOPE,
    Cause.NOTHING_TO_COMPARE: Reason.NOTHING_TO_COMPARE,
    Cause.ANALYSIS_FAILED: Reason.WORSE,
    Cause.ANALYSIS_UNDECIDED: Reason.UNDECIDED,
    Cause.ANALYSIS_UNMEASURED: Reason.UNMEASURED,
    Cause.LABELS_LACKING: Reason.UNLABELLED,
    Cause.SPLIT_MISMATCH: Reason.MISSPLIT,
}
"""What a release waits for that a cause has paused."""

ENDED: Mapping[Cause, Reason] = {
    Cause.GATE_FAILED: Reason.GATE_FAILED,
    Cause.GATE_UNDECIDED: Reason.GATE_UNDECIDED,
    Cause.GATE_UNMEASURED: Reason.GATE_UNMEASURED,
    Cause.GATES_BROKEN: Reason.GATES_BROKEN,
    Cause.ANALYSIS_FAILED: Reason.ANALYSIS_FAILED,
    Cause.ANALYSIS_UNDECIDED: Reason.UNDECIDED_ENDED,
    Cause.ANALYSIS_UNMEASURED: Reason.UNMEASURED_ENDED,
    Cause.LABELS_LACKING: Reason.UNLABELLED_ENDED,
    Cause.SPLIT_MISMATCH: Reason.MISSPLIT_ENDED,
    Cause.GUARDRAIL_BROKEN: Reason.GUARDRAIL_BROKEN,
    Cause.BAKE_FAILED: Reason.BAKE_FAILED,
    Cause.BAKE_UNMEASURED: Reason.UNPROVEN,
    Cause.PROGRESS_DEADLINE: Reason.DEADLINE,
    Cause.NOT_RUNNING: Reason.TARGET_FAILED,
    Cause.REJECTED: Reason.REJECTED,
    Cause.ABORTED: Reason.ABORTED,
    Cause.SUPERSEDED: Reason.SUPERSEDED,
    Cause.TAKEN_BACK: Reason.TAKEN_BACK,
}
"""How a release ended that a cause has stopped."""

DOUBTED: Mapping[Doubt, Reason] = {Doubt.SPLIT: Reason.SPLIT_DOUBTED, Doubt.LABELS: Reason.LABELS_AWAITED}
"""What an analysis that is under way has to be told about, beside that it is under way."""

WANTS_A_LOOK = frozenset({Reason.BUDGET_USED_UP, Reason.LABELS_AWAITED, Reason.SPLIT_DOUBTED})
"""What a release under way waits for that may never come by itself, so that a person should look before it is over."""

STOOD: Mapping[Completion, Reason] = {
    Completion.PROMOTED: Reason.PROMOTED,
    Completion.FAST_PROMOTED: Reason.PROMOTED,
    Completion.FAST_ROLLED_BACK: Reason.BROUGHT_BACK,
    Completion.SUPERSEDED: Reason.SUPERSEDED,
}
"""Completions that say by themselves why, where no cause was recorded."""

unexplained = {*Doubt} ^ {*DOUBTED} | {*Cause} - {*PAUSED, *ENDED}
if missing := {*Reason} ^ {*REASONS} | {*spec.OnInconclusive} ^ {*WHEN_UNDECIDED} | unexplained:
    raise ImportError(f"without a row in steersman.decide.explaining: {missing}")


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
    """Which row holds: what stopped the release, or what it stands before."""
    release, cause = known.release, known.release.cause
    ending = release.completion or (release.ending if release.phase is Phase.DEGRADED else None)
    if ending is not None:
        return STOOD.get(ending, Reason.ENDED_BEFORE) if cause is None else ENDED[cause]
    if release.phase is Phase.VERIFYING:
        return Reason.VERIFYING
    if release.phase is Phase.PAUSED:
        return Reason.PAUSED_BEFORE if cause is None else PAUSED[cause]
    if release.opened is Opened.ROLLBACK:
        return Reason.COMING_BACK
    if known.frozen is not None:
        return Reason.FROZEN
    if release.phase is Phase.PENDING and known.waits_for is not None:
        return Reason.QUEUED
    if known.exhausted is not None:
        return Reason.BUDGET_USED_UP
    if release.phase is Phase.PENDING:
        return Reason.GATES_UNDER_WAY
    if release.entered and isinstance(known.step, spec.Analysis):
        return Reason.COLLECTING if known.doubt is None else DOUBTED[known.doubt]
    return Reason.RESTING if release.entered and isinstance(known.step, spec.Pause) else Reason.STEP_COMING


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
        "exhausted": str(known.exhausted),
        "doubted": known.doubted,
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
