"""What stands in code blocks is tried: documents are examined, command lines parsed, Python compiled or run.

A block's first line says what it is: `yaml` a whole document, `yaml fragment` a part of one, `yaml version.yaml` a
version of the directory registry, `shell` commands, `toml` a part of a distribution's `pyproject.toml`, `python` a program,
`python run` one that runs here and now.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from steersman.cli.manual import COMMANDS
from steersman.cli.parsing import parse
from steersman.client.documents import parse_yaml
from steersman.domain.linting import lint
from steersman.domain.spec import Model
from steersman.plugins.metrics.entry_points import GROUP
from steersman.plugins.registries.directory import DirectoryRegistry

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
PROGRAMS = frozenset({"make", "pip", "python", "export", "tar", "sed"})
"""Programs besides `steersman` that a reader is told to run."""


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(str(page.relative_to(ROOT)), line, match[1].strip(), match[2]))
    return found


def of(*languages: str) -> list[object]:
    return [pytest.param(block, id=str(block)) for block in blocks() if block.language in languages]


def test_every_block_says_what_it_is() -> None:
    known = {"yaml", "yaml fragment", "yaml version.yaml", "shell", "toml", "python", "python run", "text", "json"}
    assert {block.language for block in blocks()} <= known


@pytest.mark.parametrize("block", of("yaml"))
def test_a_document_is_read_and_the_linter_finds_nothing(block: Block) -> None:
    documents = parse_yaml(block.text, source=str(block))
    assert documents
    for document in documents:
        assert not isinstance(document, Model) or lint(document) == []


@pytest.mark.parametrize("block", of("yaml fragment"))
def test_a_fragment_fits_into_a_model(block: Block) -> None:
    head = {"apiVersion": "steersman/v1", "kind": "Model", "metadata": {"name": "m"}}
    needed = {"versions": {"registry": "mlflow", "name": "m"}}
    document = {**head, "spec": {**needed, **yaml.safe_load(block.text)}}
    assert parse_yaml(yaml.safe_dump(document), source=str(block))


@pytest.mark.parametrize("block", of("yaml version.yaml"))
def test_a_version_file_is_one(block: Block, tmp_path: Path) -> None:
    version = tmp_path / "credit-risk" / "1"
    version.mkdir(parents=True)
    (version / "version.yaml").write_text(block.text)
    assert DirectoryRegistry(tmp_path).describe("credit-risk", 1).signature


@pytest.mark.parametrize("block", of("toml"))
def test_a_distribution_offers_what_is_looked_for(block: Block) -> None:
    assert tomllib.loads(block.text)["project"]["entry-points"].keys() <= {GROUP}


def words_of(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    end = next((index for index, word in enumerate(words) if word in (">", "&", "|")), len(words))
    return words[:end]


def parsed(words: list[str]) -> bool:
    """Whether the real parser takes the words that follow `steersman`; placeholders in capitals stand for a number too."""
    numbered = ["4" if word in ("VERSION", "NUMBER") else word for word in words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return not isinstance(parse(numbered), int)


@pytest.mark.parametrize("block", of("shell"))
def test_a_command_line_is_taken_by_the_real_parser(block: Block) -> None:
    for line in block.text.splitlines():
        words = words_of(line)
        if not words:
            continue
        if words[0] == "steersman":
            assert parsed(words[1:]), line
        else:
            assert words[0] in PROGRAMS, line


def test_commands_in_the_text_exist_and_their_flags_too() -> None:
    for page in PAGES:
        if page.name == "cli.md":
            continue
        for found in re.findall(r"`steersman ([^`]+)`", page.read_text()):
            words = words_of(" ".join(found.split()))
            command = COMMANDS.get(words[0])
            assert command is not None, f"{page.name}: steersman {found}"
            flags = {flag for argument in command.arguments for flag in argument.flags} | {"--state", "--url", "--help"}
            unknown = {word for word in words[1:] if word.startswith("--")} - flags
            assert not unknown, f"{page.name}: steersman {found}"
            if len(words) > 2 and not words[-1].startswith("--"):  # more than a mention
                assert parsed(words), f"{page.name}: steersman {found}"


@pytest.mark.parametrize("block", of("python"))
def test_a_program_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", of("python run"))
def test_a_program_runs(block: Block) -> None:
    ran = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
