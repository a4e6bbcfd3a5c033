"""The table of all commands: what each is called, takes, and does. Help pages and `docs/cli.md` are made from it."""

from __future__ import annotations

TYPE_CHECKING = False  # see steersman.cli
if TYPE_CHECKING:
    from typing import Any

USAGE = "steersman [--url URL] [--token TOKEN] [--state DIR] [--output table|json] COMMAND ..."

EPILOG = """\
exit codes: 0 done · 1 error · 2 blocked by a gate or waiting for an approval
`steersman COMMAND --help` explains a command. The address and token come from --url and --token, else STEERSMAN_URL and
STEERSMAN_TOKEN, else the credentials file of the state directory (--state, STEERSMAN_STATE, or ./.steersman)."""


class Argument:
    """One flag or positional, as argparse takes it."""

    __slots__ = ("flags", "help", "options")

    def __init__(self, flags: tuple[str, ...], text: str, options: dict[str, Any]) -> None:
        self.flags, self.help, self.options = flags, text, options


class Command:
    """One command; `run` names the function that carries it out, imported when it runs.

    With `passes_on`, arguments it does not know are handed to what it starts. `misused` is the exit code of a wrong command
    line.
    """

    __slots__ = ("arguments", "description", "examples", "misused", "name", "passes_on", "run", "summary")

    def __init__(
        self,
        name: str,
        summary: str,
        run: str,
        arguments: tuple[Argument, ...] = (),
        description: str = "",
        examples: tuple[str, ...] = (),
        passes_on: bool = False,
        misused: int = 1,
    ) -> None:
        self.name, self.summary, self.run, self.arguments = name, summary, run, arguments
        self.description, self.examples, self.passes_on, self.misused = description, examples, passes_on, misused


def _argument(*flags: str, help: str, **options: Any) -> Argument:  # noqa: A002 - argparse's word
    return Argument(flags, help, options)


COMMON = (
    _argument("--url", help="address of the control server", metavar="URL"),
    _argument("--token", help="token; better in STEERSMAN_TOKEN, which other users cannot see", metavar="TOKEN"),
    _argument("--state", help="state directory whose credentials are used", metavar="DIR"),
    _argument("--output", help="form of the output (default: table)", choices=("table", "json")),
)

_MODEL = _argument("model", help="MODEL, or WORKSPACE/MODEL", metavar="MODEL")
_VERSION = _argument("version", help="number of the version", type=int, metavar="VERSION")
_RELEASE = _argument("release", help="id of the release (see `steersman releases MODEL`)", metavar="RELEASE")
_BECAUSE = _argument("--because", help="the reason, kept in the ledger", required=True, metavar="TEXT")
_ENVIRONMENT = _argument(
    "--environment", help="environment (default: production)", default="production", metavar="NAME"
)
_FILES = _argument("files", help="YAML files, or directories of them", nargs="+", metavar="FILE")
_WAIT = _argument("--wait", help="wait until it is decided, at most this long (default 600)", nargs="?", const=600.0,
                  type=float, metavar="SECONDS")  # fmt: skip
_LIMIT = _argument("--limit", help="most rows shown (default 50)", type=int, default=50, metavar="N")


def _decision(name: str, summary: str, description: str) -> Command:
    return Command(
        name, summary, "steersman.cli.commands.releases:decide", (_RELEASE, _BECAUSE, _WAIT), description,
        (f'steersman {name} rel-0198… --because "as discussed in the review"',),
    )  # fmt: skip


_ALL = (
    Command(
        "up", "start an installation here, and keep it running", "steersman.cli.commands.installation:up",
        (
            _argument("--port", help="port of the control server: console, API, MLflow (default 7700)", type=int,
                      default=7700, metavar="PORT"),
            _argument("--router-port", help="port of the router: predictions, labels (default 7701)", type=int,
                      default=7701, metavar="PORT"),
            _argument("--routers", help="router processes on that port (default 1); one uses one core",
                      type=int, default=1, metavar="N"),
            _argument("--host", help="address to listen on (default 127.0.0.1)", default="127.0.0.1", metavar="HOST"),
            _argument("--mlflow-uri", help="use this MLflow instead of starting one", metavar="URI"),
            _argument("--mlflow-token", help="where that server's token lies: env:NAME or file:/absolute/path",
                      metavar="REFERENCE"),
            _argument("--mlflow-user", help="its user; --mlflow-token then names the password", metavar="NAME"),
            _argument("--no-mlflow", help="neither start nor use MLflow", action="store_true"),
            _argument("--registry", help="a directory of versions, the registry `directory` of documents", metavar="DIR"),
            _argument("--allow-code", help="let versions of this model carry code (pickle, pyfunc); may be repeated",
                      action="append", default=[], metavar="WORKSPACE/MODEL"),
            _argument("--notify", help="a channel for incidents: its name in documents, and where its webhook's address "
                      "lies (env:NAME, file:/path); may be repeated", action="append", default=[], metavar="NAME=REFERENCE"),
            _argument("--notify-network", help="a private network webhooks may go to; may be repeated", action="append",
                      default=[], metavar="CIDR"),
            _argument("--tables", help="keep the inference log's tables on an S3-compatible store (default: in the state "
                      "directory)", metavar="s3://BUCKET/PREFIX"),
            _argument("--tables-endpoint", help="address of that store (default: Amazon's)", metavar="URL"),
            _argument("--tables-region", help="its region (default: us-east-1)", metavar="NAME"),
            _argument("--tables-key", help="where its access key lies: env:NAME or file:/absolute/path",
                      metavar="REFERENCE"),
            _argument("--tables-secret", help="where its secret key lies", metavar="REFERENCE"),
            _argument("--replay-from", help="replay: event time starts here and moves only by command", metavar="TIME"),
        ),
        "Starts control server, router, committer and an embedded MLflow, restarts what fails, and stops them on\n"
        "Ctrl-C. Workers keep serving when it is killed and are adopted at the next start. Everything it keeps lies in\n"
        "the state directory; the first start writes the admin's token there, readable by you only.",
        ("steersman up", "steersman up --mlflow-uri https://mlflow.example.com --mlflow-token env:MLFLOW_TOKEN",
         "steersman up --tables s3://logs/steersman --tables-key env:S3_KEY --tables-secret env:S3_SECRET"),
    ),
    Command(
        "restart", "replace the routers of a running installation without a failed request",
        "steersman.cli.commands.installation:restart",
        (_argument("what", help="what to replace", choices=("router",)),),
        "The successor starts on the same socket and takes over when it is ready; only then is the old router asked to end,\n"
        "which answers what it has. Use it after an upgrade. It must run on the machine of `steersman up`, as its user.",
        ("steersman restart router",),
    ),
    Command(
        "demo", "run a year of real flights through the whole loop", "steersman.cli.commands.installation:demo",
(),
        "Runs examples/01-flight-delay/drive.py: training, releases, drift, faults and recovery on the flights of 2013,\n"
        "with real traffic, and leaves the console open. Further arguments go to it: --exit ends instead, --report FILE writes\n"
        "the figures, --sample 0.1 keeps a tenth of the flights, --seed N moves the faults.",
        ("steersman demo", "steersman demo --exit --report r.json --sample 0.1"),
        passes_on=True,
    ),
    Command(
        "init", "write a commented first model.yaml", "steersman.cli.commands.documents:init",
        (
            _argument("file", help="file to write (default model.yaml)", nargs="?", default="model.yaml", metavar="FILE"),
            _argument("--name", help="name of the model (default my-model)", default="my-model", metavar="NAME"),
            _argument("--force", help="replace an existing file", action="store_true"),
        ),
        examples=("steersman init model.yaml --name credit-risk",),
    ),
    Command(
        "validate", "check documents without a server", "steersman.cli.commands.documents:validate", (_FILES,),
        "Reads documents, names every fault at its path, and says what would hurt later. Ends with 1 when there is a\n"
        "fault or an error of the linter; warnings alone end with 0.",
        ("steersman validate model.yaml dataset.yaml",),
    ),
    Command(
        "plan", "show what would happen, and what stands in its way", "steersman.cli.commands.documents:plan",
        (
            _argument("what", help="files to apply, or a model", nargs="+", metavar="FILE|MODEL"),
            _argument("--version", help="with a model: the version a release would bring", type=int, dest="number",
                      metavar="VERSION"),
            _ENVIRONMENT,
        ),
        "With files: what `apply` would change. With a model and --version: the gates, steps and evidence of a release,\n"
        "and the expected time to a verdict from today's traffic. Ends with 2 when something blocks it.",
        ("steersman plan model.yaml", "steersman plan ops/flight-delay --version 4"),
    ),
    Command(
        "apply", "make documents the declared state", "steersman.cli.commands.documents:apply",
        (_FILES, _argument("--dry-run", help="show only what would change", action="store_true")),
        "Applying the same documents again changes nothing.",
        ("steersman apply model.yaml",),
    ),
    Command(
        "schema", "print the JSON Schema of documents", "steersman.cli.commands.documents:schema",
        (_argument("kind", help="Model, Dataset or Environment; all without it", nargs="?", metavar="KIND"),),
        examples=("steersman schema Model > model.schema.json",),
    ),
    Command(
        "status", "what is live, on its way, or wrong", "steersman.cli.commands.looking:status",
        (_argument("model", help="MODEL, or WORKSPACE/MODEL; all models without it", nargs="?", metavar="MODEL"),),
        examples=("steersman status", "steersman status ops/flight-delay --output json"),
    ),
    Command(
        "versions", "list a model's versions, or take one in", "steersman.cli.commands.looking:versions",
        (_MODEL, _argument("--register", help="take this number in from the registry", type=int, metavar="NUMBER"), _LIMIT),
        "Registering copies the version's files and knows them by their digest from then on; a later overwrite in the\n"
        "registry cannot reach production.",
        ("steersman versions ops/flight-delay --register 4",),
    ),
    Command(
        "ci", "prove a version: its own tests and its gates, without a release", "steersman.cli.commands.ci:ci",
        (
            _MODEL,
            _argument("--version", help="number of the version; taken in from the registry if it is not yet", type=int,
                      dest="number", required=True, metavar="VERSION"),
            _ENVIRONMENT,
            _argument("--wait", help="wait at most this long (default 1800)", type=float, default=1800.0,
                      metavar="SECONDS"),
            _argument("--junit", help="also write the verdicts as JUnit XML", metavar="FILE"),
            _argument("--here", help="without an installation, on this machine: the documents to go by; nothing is live then",
                      nargs="+", metavar="FILE"),
            _argument("--registry", help="with --here: the directory of versions", metavar="DIR"),
        ),
        "Starts the version in its own library environment, runs there the tests that its document declares, judges every gate\n"
        "against what is live, and records the verdicts. Ends with 0 when all passed, 1 when one failed, and 2 when it could\n"
        "not be judged: no data, no answer, nothing declared, tests that could not run, or a wrong command line.",
        ("steersman ci ops/flight-delay --version 4", "steersman ci flight-delay --version 4 --junit gates.xml",
         "steersman ci flight-delay --version 4 --here model.yaml dataset.yaml --registry versions"),
        misused=2,
    ),
    Command(
        "history", "what was live when, why, and who agreed", "steersman.cli.commands.looking:history",
        (
            _MODEL,
            _argument("--at", help="a moment: 2026-03-01 or 2026-03-01T12:00:00Z; without it, all of it", metavar="TIME"),
            _argument("--environment", help="one environment only", metavar="NAME"),
        ),
        examples=("steersman history ops/flight-delay --at 2026-03-01",),
    ),
    Command(
        "rollback", "bring back what answered before", "steersman.cli.commands.releases:rollback",
        (_MODEL, _BECAUSE, _ENVIRONMENT, _WAIT),
        "While a release answers a part of the requests, it is taken back and the version beside it answers alone; else the\n"
        "version promoted before comes back. Takes seconds while it is kept warm. No freeze stops a rollback; it is recorded.\n"
        "Refused with 2 where that version was replaced longer ago than the document's `rollbackPeriod`.",
        ('steersman rollback ops/flight-delay --because "complaints since noon"',),
    ),
    Command(
        "release", "bring a version into an environment", "steersman.cli.commands.releases:release",
        (
            _MODEL, _VERSION, _BECAUSE, _ENVIRONMENT,
            _argument("--hotfix", help="pass freezes; one person more must agree", action="store_true"),
            _WAIT,
        ),
        "Opens a release that follows the strategy of the model's document: gates, mirror, analysis, canary, promotion,\n"
        "bake. Ends with 2 when a gate blocks it, it waits for an approval, or the version has not stood its bake in the\n"
        "environment that comes before.",
        ('steersman release ops/flight-delay 4 --because "retrained on spring" --wait',),
    ),
    Command(
        "releases", "list a model's releases, or show one", "steersman.cli.commands.releases:releases",
        (_argument("what", help="a model, or the id of a release", metavar="MODEL|RELEASE"), _LIMIT),
        examples=("steersman releases ops/flight-delay", "steersman releases rel-0198…"),
    ),
    _decision("approve", "agree to a release that waits for it",
              "Needs the role the step names; whoever opened the release or made the version cannot approve it."),
    _decision("withdraw", "take your own approval back",
              "While nothing rests on it yet; afterwards `abort` or `rollback` stops the release."),
    _decision("reject", "disagree with a release that waits for it", "The release is aborted."),
    _decision("pause", "hold a release where it is", "Guardrails keep watching; `resume` lets it go on."),
    _decision("resume", "let a paused release go on", "Also decides an inconclusive analysis: the release goes on."),
    _decision("abort", "end a release, all traffic back to stable", "The previous version answers again at once."),
    _decision("retry", "open an aborted release again", "A new release of the same version, from its first step."),
    Command(
        "promote", "go on without waiting", "steersman.cli.commands.releases:promote",
        (
            _RELEASE, _BECAUSE,
            _argument("--full", help="skip every analysis and pause still to come", action="store_true"),
            _WAIT,
        ),
        "Skips the analysis or pause the release stands at, or all of them with --full; gates, approvals, guardrails and the\n"
        "bake stand. Completes as FastPromoted, each skipped step is recorded. From tier 2 an analysis is skipped only by a\n"
        "waiver (`steersman waive`).",
        ('steersman promote rel-0198… --full --because "the incident is worse"',),
    ),
    Command(
        "waive", "let one version skip a step, or the environment before", "steersman.cli.commands.releases:waive",
        (
            _MODEL, _VERSION, _BECAUSE, _ENVIRONMENT,
            _argument("--skip", help="the environment before, by name, or an analysis or pause, by its number in `releases`",
                      required=True, metavar="WHAT"),
            _argument("--expires", help="how long it may be used (default 7d, at most 90d)", default="7d",
                      metavar="DURATION"),
        ),
        "For an approver who neither made the version nor opens its release. Good for one version, one environment, one\n"
        "release. Approvals, gates and guardrails cannot be waived.",
        ('steersman waive ops/flight-delay 4 --skip staging --because "staging is down, see case 311"',),
    ),
    Command(
        "retire", "drain a version and never release it again", "steersman.cli.commands.releases:retire",
        (_MODEL, _VERSION, _BECAUSE),
        examples=('steersman retire ops/flight-delay 2 --because "trained on rows that were withdrawn"',),
    ),
    Command(
        "incidents", "list incidents, show one, or accept one", "steersman.cli.commands.looking:incidents",
        (
            _argument("what", help="a model, or the id of an incident", metavar="MODEL|INCIDENT"),
            _argument("--accept", help="close it as it is, on your responsibility", action="store_true"),
            _argument("--because", help="with --accept: the reason, kept in the ledger", metavar="TEXT"),
            _LIMIT,
        ),
        examples=("steersman incidents ops/flight-delay", 'steersman incidents inc-0198… --accept --because "known"'),
    ),
    Command(
        "monitors", "what is watched, and what was seen", "steersman.cli.commands.looking:monitors",
        (_MODEL, _argument("--windows", help="show window by window", action="store_true"), _LIMIT),
        examples=("steersman monitors ops/flight-delay --windows",),
    ),
    Command(
        "trainings", "list a model's training runs", "steersman.cli.commands.looking:trainings", (_MODEL, _LIMIT),
        examples=("steersman trainings ops/flight-delay",),
    ),
    Command(
        "ledger", "read, export and verify the ledger", "steersman.cli.commands.ledger:ledger",
        (
            _argument("action", help="show, checkpoint, key (what --vkey takes), export or verify",
                      choices=("show", "checkpoint", "key", "export", "verify"), metavar="ACTION"),
            _argument("path", help="export: file to write; verify: an export to verify offline", nargs="?", metavar="PATH"),
            _argument("--from", help="show: first index (default 0)", type=int, default=0, dest="start", metavar="INDEX"),
            _argument("--vkey", help="verify: the key you trust, as text or file", metavar="KEY"),
            _argument("--earlier", help="verify: an older checkpoint you kept", metavar="FILE"),
            _LIMIT,
        ),
        "`verify` without a path lets the installation check itself; with the path of an export it needs no server,\n"
        "and with --vkey and --earlier it proves that nothing before that checkpoint was changed, even by an insider.",
        ("steersman ledger verify", "steersman ledger key > steersman.vkey", "steersman ledger export log.tar",
         "steersman ledger verify log.tar --vkey steersman.vkey --earlier last-month.checkpoint"),
    ),
    Command(
        "log", "erase one entity from a model's inference log", "steersman.cli.commands.log:log",
        (
            _argument("action", help="erase", choices=("erase",), metavar="ACTION"),
            _MODEL,
            _argument("--entity", help="the value of the stickyBy column whose rows are deleted; - reads it from standard "
                      "input, which no other user can see", required=True, metavar="VALUE"),
            _BECAUSE,
        ),
        "Deletes every prediction of the entity in every environment, and every label of these predictions or about the\n"
        "entity, from all files; this cannot be undone. The ledger records who, why and how many rows, never the value.",
        ('steersman log erase ops/flight-delay --entity N525UA --because "request 4711"',),
    ),
    Command(
        "export", "write models, releases, incidents and ledger to a directory", "steersman.cli.commands.ledger:export",
        (_argument("directory", help="directory to write; must be empty or new", metavar="DIR"),),
        "What an auditor takes away: JSON of every model's versions, releases and incidents, and the ledger's export.",
        ("steersman export audit-2026-03",),
    ),
    Command(
        "user", "list people, set their roles, let them in or out", "steersman.cli.commands.people:user",
        (
            _argument("action", help="list, set, disable, or login-code (for the console, valid once and for 10 minutes)",
                      choices=("list", "set", "disable", "login-code"), metavar="ACTION"),
            _argument("name", help="the person", nargs="?", metavar="NAME"),
            _argument("--role", help="set: viewer, operator, approver, validator or admin, for all workspaces or as "
                      "ROLE@WORKSPACE; may be repeated, and replaces what the person had", action="append", default=[],
                      dest="roles", metavar="ROLE"),
        ),
        examples=("steersman user set maria --role viewer --role approver@ops", "steersman user login-code maria"),
    ),
    Command(
        "token", "list, issue and revoke tokens", "steersman.cli.commands.people:token",
        (
            _argument("action", help="list, issue or revoke", choices=("list", "issue", "revoke"), metavar="ACTION"),
            _argument("name", help="issue: the person or service; revoke: the token's id", nargs="?", metavar="NAME|ID"),
            _argument("--role", help="issue: role; may be repeated", action="append", default=[], dest="roles",
                      choices=("viewer", "operator", "approver", "validator", "admin"), metavar="ROLE"),
            _argument("--service", help="issue: for a program, which can never approve", action="store_true"),
            _argument("--workspace", help="issue: one workspace only", metavar="NAME"),
            _argument("--scope", help="issue: only this permission of the roles, such as traffic:predict; may be repeated",
                      action="append", default=[], dest="scopes", metavar="PERMISSION"),
            _argument("--life", help="issue: valid for, such as 30d", metavar="DURATION"),
        ),
        "The secret of a new token is shown once and kept nowhere; only its hash is stored.",
        ("steersman token issue ci --service --role operator --life 30d", "steersman token revoke tok-0198…"),
    ),
    Command(
        "doctor", "check this installation and say what to do", "steersman.cli.commands.doctor:doctor",
        description="Checks Python, packages, ports, disk, clock, the servers and MLflow; each finding has a next step.",
        examples=("steersman doctor",),
    ),
)  # fmt: skip

COMMANDS: dict[str, Command] = {command.name: command for command in _ALL}
"""Every command by name, in the order of the help page."""


def overview() -> str:
    """What `steersman --help` prints."""
    lines = [
        f"usage: {USAGE}",
        "",
        "Keeps AI models in production on course: releases with proof, watching, history.",
        "",
    ]
    lines += ["commands:", *(f"  {command.name:<11} {command.summary}" for command in COMMANDS.values()), ""]
    lines += ["options of every command:", *(f"  {a.flags[0]:<11} {a.help}" for a in COMMON)]
    lines += ["  --version   print the version", "", EPILOG]
    return "\n".join(lines)


def manual() -> str:
    """The manual page of the whole command line as Markdown: `docs/cli.md`."""
    from steersman.cli.parsing import parser_of

    parts = [
        "# The command line\n",
        "Made from the table in `steersman.cli.manual` by `python -m steersman.cli.manual > docs/cli.md`; a test compares.\n",
        f"```text\n{overview()}\n```\n",
    ]
    for command in COMMANDS.values():
        page = parser_of(command, width=110).format_help().rstrip()
        parts += [f"## steersman {command.name}\n", f"```text\n{page}\n```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    print(manual(), end="")
