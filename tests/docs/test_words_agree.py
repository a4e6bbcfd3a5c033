"""The words of the documentation are those of the code: names exist, members appear, links lead somewhere."""

from __future__ import annotations

import importlib
import inspect
import re
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest

from steersman import ports
from steersman.cli.manual import COMMANDS
from steersman.domain import spec
from steersman.domain.access import Permission, Role
from steersman.domain.events import Action
from steersman.domain.incident import IncidentKind, IncidentState, Remedy
from steersman.domain.release import Completion, Phase
from steersman.domain.verdicts import Outcome
from steersman.domain.version import Milestone
from steersman.ledger import proofs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])

VOCABULARY = """
    workspace dataset model version environment target release strategy canary blueGreen shadow allAtOnce step mirror
    setWeight pause analysis approval promote bake stable candidate gate verdict successful failed inconclusive error phase
    completion window profile baseline monitor finding alert incident remedy rollback retrain freeze accept ground-truth
    label horizon matured block milestone freeze-period rollback-period waiver break-glass tier policy control evidence
    ledger entry checkpoint receipt alias champion challenger predictor llm_app
"""
"""Every word the project uses for a thing of its own."""


def resolve(name: str) -> object:
    """What a dotted name means; raises AttributeError or ModuleNotFoundError where it means nothing."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_modules_and_functions_exist(page: Path) -> None:
    for name in set(re.findall(r"`(steersman(?:_mlflow_guard)?\.[A-Za-z_.]+[A-Za-z_])`", page.read_text())):
        assert resolve(name) is not None, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if there.suffix == ".png" and not there.exists():
            continue  # pictures are made from a running console
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_begins_with_a_title_and_says_for_whom_it_is(page: Path) -> None:
    title, _, rest = page.read_text().partition("\n\n")
    assert title.startswith("# ")
    generated_or_formal = page.name in ("cli.md", "errors.md", "README.md") or page.parent.name == "decisions"
    if not generated_or_formal:
        first = rest.partition("\n## ")[0]
        assert re.search(r"\b[Ff]or (those|newcomers|everybody|admins|auditors|operators|authors|data|teams)", first)


def test_the_life_of_a_version_has_every_milestone_with_modules_ledger_and_command() -> None:
    text = (DOCS / "life-of-a-model-version.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.split("\n", 1)[0] for section in sections] == [str(milestone) for milestone in Milestone]
    for section in sections:
        assert all(f"- {part}: " in section for part in ("Modules", "Ledger", "Command")), section[:40]
        assert re.search(r"`steersman [a-z]", section), section[:40]


def test_actions_that_pages_name_are_actions_of_the_ledger() -> None:
    families = "|".join(sorted({str(action).split(".")[0] for action in Action}))
    known = {str(action) for action in Action}
    for page in PAGES:
        named = set(re.findall(rf"`((?:{families})\.(?!db|yaml|txt|json|tar|md)[a-z_]+)`", page.read_text()))
        assert named <= known, f"{page.name}: {named - known}"


@pytest.mark.parametrize(
    "words",
    [Phase, Completion, Outcome, IncidentKind, IncidentState, Remedy, Milestone, Role, Permission],
    ids=lambda words: words.__name__,
)
def test_the_glossary_has_every_member(words: type[StrEnum]) -> None:
    text = (DOCS / "glossary.md").read_text()
    assert [str(word) for word in words if f"`{word}`" not in text] == []


def test_the_glossary_has_every_word_of_the_vocabulary() -> None:
    text = " ".join((DOCS / "glossary.md").read_text().lower().replace("*", "").split())
    assert [word for word in VOCABULARY.split() if word.lower().replace("-", " " if "ground" in word else "-") not in text
            and word.lower().replace("-", " ") not in text] == []  # fmt: skip


def test_every_port_is_on_the_page_about_plugins_with_its_methods() -> None:
    text = (DOCS / "plugins.md").read_text()
    rows = {found[1]: found[2] for found in re.finditer(r"^\| `(\w+)` \| (.+)$", text, re.MULTILINE)}
    protocols = {n: c for n, c in vars(ports).items() if inspect.isclass(c) and getattr(c, "_is_protocol", False)}
    protocols = {name: cls for name, cls in protocols.items() if cls.__module__ == ports.__name__}
    assert set(rows) == set(protocols)
    for name, port in protocols.items():
        for method, what in vars(port).items():
            if inspect.isfunction(what) and not method.startswith("_"):
                assert f"`{method}`" in rows[name], f"{name}.{method}"


def test_fields_listed_as_refused_exist() -> None:
    section = (DOCS / "documents.md").read_text().split("## Refused in this version")[1].split("\n## ")[0]
    first_cells = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    named = re.findall(r"`(\w+)\.(\w+)`", first_cells)
    assert len(named) > 10
    for struct, field in named:
        fields = {f.encode_name for f in msgspec.structs.fields(getattr(spec, struct))}
        assert field in fields, f"{struct}.{field}"


def test_the_options_of_the_offline_verifier_are_in_its_page() -> None:
    text = (DOCS / "howto" / "verify-the-ledger.md").read_text()
    offered = re.findall(r'add_argument\("(--\w+)"', inspect.getsource(proofs.main))
    assert offered
    assert [flag for flag in offered if flag not in text] == []


def test_every_flag_of_up_is_explained_in_a_page_for_people() -> None:
    text = "".join(page.read_text() for page in PAGES if page.name != "cli.md")
    flags = {flag for argument in COMMANDS["up"].arguments for flag in argument.flags}
    assert [flag for flag in sorted(flags) if flag not in text] == []


def test_every_decision_is_in_the_list_and_says_what_would_change_our_mind() -> None:
    pages = sorted(page for page in (DOCS / "decisions").glob("*.md") if page.name != "README.md")
    listed = (DOCS / "decisions" / "README.md").read_text()
    for number, page in enumerate(pages, start=1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert f"]({page.name})" in listed
        for part in ("**Context.**", "**Choice.**", "**Price.**", "**What would change our mind.**"):
            assert part in text, f"{page.name}: {part}"


READ_ELSEWHERE = {
    *("apiVersion", "kind", "metadata", "spec"),  # say what the document is
    *("owner", "labels"),  # shown
    *("until", "git", "commit", "test"),  # can be but one, or are refused as a whole
    "operator",  # read by `Limit.holds`
}
"""Fields that need no reader of their own outside of the documents' modules."""


def test_every_field_of_a_document_is_read_somewhere() -> None:
    """A field no code reads is a promise nobody keeps: it is carried out, refused, or taken out."""
    source = ROOT / "src" / "steersman"
    parts = ("decide", "loop", "server", "console", "domain/refusals.py", "domain/linting.py")
    files = [f for part in parts for f in ([source / part] if part.endswith(".py") else (source / part).rglob("*.py"))]
    text = "\n".join(file.read_text() for file in files)
    structs = [cls for cls in vars(spec).values() if inspect.isclass(cls) and issubclass(cls, spec.Part)]
    fields = {
        (c.__name__, f.name) for c in structs for f in msgspec.structs.fields(c) if f.encode_name not in READ_ELSEWHERE
    }
    unread = {f"{struct}.{name}" for struct, name in fields if not re.search(rf"\.{name}\b|\b{name}=", text)}
    assert unread == set()
