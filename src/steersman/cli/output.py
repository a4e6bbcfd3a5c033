"""What people and programs read: tables on a terminal, JSON for programs, errors with their next step.

Tables follow the data: a list of records is a table of the columns asked for, a record is lines of names and values, and
what is nested is indented below. Nothing is hidden that `--output json` would show under another name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.domain.errors import SteersmanError

CELL_WIDTH_MAX = 72
"""Longest cell of a table; longer text is cut with an ellipsis, and whole in JSON."""


def show(value: Any, output: str | None, columns: Sequence[str] = ()) -> None:
    """Print a record or a list of records."""
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    text = table(value, columns) if isinstance(value, list) else "\n".join(_lines(value, ""))
    print(text)


def say(message: str, output: str | None) -> None:
    """A sentence for people; silent where a program reads."""
    if output != "json":
        print(message)


def print_error(error: SteersmanError, output: str | None) -> None:
    """The message and what to do next, on standard error."""
    if output == "json":
        print(json.dumps(error.to_wire(), ensure_ascii=False), file=sys.stderr)
        return
    print(f"error: {error.message}", file=sys.stderr)
    if error.next_step:
        print(f"next:  {error.next_step}", file=sys.stderr)


def table(rows: Sequence[Any], columns: Sequence[str] = ()) -> str:
    """Aligned columns; those asked for that occur, or every scalar one."""
    if not rows:
        return "nothing to show"
    records = [row if isinstance(row, Mapping) else {"value": row} for row in rows]
    shown = [column for column in columns if any(column in record for record in records)]
    if not shown:
        keys = dict.fromkeys(key for record in records for key in record)
        shown = [key for key in keys if not any(isinstance(r.get(key), Mapping | list) for r in records)]
    cells = [[_cell(record.get(column)) for column in shown] for record in records]
    heads = [column.replace("_", " ").upper() for column in shown]
    widths = [max(len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]
    lines = [heads, *cells]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _lines(value: Any, indent: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [indent + _cell(value)]
    width = max((len(str(key)) for key, v in value.items() if not isinstance(v, Mapping | list)), default=0)
    lines: list[str] = []
    for key, inner in value.items():
        name = str(key).replace("_", " ")
        if isinstance(inner, Mapping) and inner:
            lines += [f"{indent}{name}:", *_lines(inner, indent + "  ")]
        elif isinstance(inner, list) and inner:
            lines += [f"{indent}{name}:", *(f"{indent}  {line}" for line in table(inner).splitlines())]
        else:
            lines.append(f"{indent}{name.ljust(width)}  {_text(inner)}")
    return lines


def _cell(value: Any) -> str:
    text = " ".join(_text(value).split())
    return text if len(text) <= CELL_WIDTH_MAX else text[: CELL_WIDTH_MAX - 1] + "…"


def _text(value: Any) -> str:
    if value is None or value in ([], {}):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | Mapping) else str(value)
