"""Attack A6: commands are argument lists. No file of ours hands a text to a shell or evaluates one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))

FORBIDDEN = {
    "os.system",
    "os.popen",
    "os.spawnl",
    "os.spawnlp",
    "os.spawnv",
    "os.spawnvp",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "pty.spawn",
    "eval",
    "exec",
}


def shells_in(source: str) -> Iterator[str]:
    """What a file does that goes through a shell or an evaluator, with its line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        short = name.rpartition(".")[2]
        if name in FORBIDDEN or (short in ("create_subprocess_shell", "getoutput", "popen") and "." in name):
            yield f"line {node.lineno}: {name}"
        for keyword in node.keywords:
            constant_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "shell" and not constant_false:
                yield f"line {node.lineno}: shell={ast.unparse(keyword.value)}"
        first = node.args[0] if node.args else None
        starts = short in ("run", "Popen", "call", "check_call", "check_output") and name.startswith("subprocess.")
        if starts and isinstance(first, ast.Constant | ast.JoinedStr):
            yield f"line {node.lineno}: {name} of a text"
        if starts and isinstance(first, ast.List) and first.elts:
            program = first.elts[0]
            if isinstance(program, ast.Constant) and str(program.value).rpartition("/")[2] in ("sh", "bash", "dash"):
                yield f"line {node.lineno}: {name} of a shell"


def test_a6_no_source_file_goes_through_a_shell() -> None:
    assert SOURCES
    found = [f"{path.name} {what}" for path in SOURCES for what in shells_in(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "os.system(x)",
        "os.popen(x)",
        "subprocess.run(x, shell=True)",
        "subprocess.Popen(x, shell=flag)",
        "subprocess.run('ls')",
        "subprocess.run(f'ls {x}')",
        "subprocess.run(['sh', '-c', x])",
        "subprocess.check_output(['/bin/bash', '-c', x])",
        "subprocess.getoutput(x)",
        "asyncio.create_subprocess_shell(x)",
        "eval(x)",
        "exec(x)",
    ],
)
def test_a6_the_check_finds_each_way_into_a_shell(line: str) -> None:
    assert list(shells_in(line))


@pytest.mark.parametrize("line", ["subprocess.run([program, x])", "model.eval()", "subprocess.run(argv, shell=False)"])
def test_a6_the_check_leaves_argument_lists_alone(line: str) -> None:
    assert not list(shells_in(line))
