"""What people and programs read: tables on a terminal, JSON for programs, errors with their next step.

Tables follow the data: a list of records is a table of the columns asked for, a record is lines of names and values, and
what is nested is indented below. For people times are cut to the second and, in tables, digests to what tells them apart;
`--output json` has all of it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steersman.domain.errors import SteersmanError

CELL_WIDTH_MAX = 72
"""Longest cell of a table; longer text is cut with an ellipsis, and whole in JSON."""

NOTHING = "–"
"""Stands for what is not known or not there, never an empty place."""

DIGEST_SHOWN = len("sha256:") + 12
"""48 bits of a digest: enough to tell any two versions of an installation apart."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def show(value: Any, output: str | None, columns: Sequence[str] = (), *, nothing: str = "nothing to show") -> None:
    """Print a record or a list of records; `nothing` stands for an empty list."""
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    if isinstance(value, list):
        print(table(value, columns) if value else nothing)
    else:
        print("\n".join(_lines(value, "")))


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


def report(value: Any, output: str | None, told: Callable[[], str]) -> None:
    """For people what `told` makes of `value`, for programs `value`; as it is where server and client differ in version."""
    if output == "json":
        show(value, output)
        return
    try:
        print(told())
    except (KeyError, TypeError):
        show(value, output)


def table(rows: Sequence[Any], columns: Sequence[str] = (), *, keep_empty: bool = False) -> str:
    """Aligned columns; those asked for that occur, or every scalar one. One that is empty all the way is left out."""
    if not rows:
        return "nothing to show"
    records = [row if isinstance(row, Mapping) else {"value": row} for row in rows]
    shown = [column for column in columns if any(column in record for record in records)]
    if not shown:
        keys = dict.fromkeys(key for record in records for key in record)
        shown = [key for key in keys if not any(isinstance(r.get(key), Mapping | list) for r in records)]
    if not keep_empty:
        filled = [c for c in shown if any(record.get(c) not in (None, "", [], {}) for record in records)]
        shown = filled or shown
    cells = [[_cell(record.get(column)) for column in shown] for record in records]
    heads = [column.replace("_", " ").removesuffix(" at").upper() for column in shown]
    widths = [max(len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]
    numbers = [all(_is_number(record.get(column)) for record in records) for column in shown]

    def line(row: Sequence[str]) -> str:
        places = zip(row, widths, numbers, strict=True)
        return "  ".join(text.rjust(width) if number else text.ljust(width) for text, width, number in places).rstrip()

    return "\n".join(line(row) for row in (heads, *cells))


def lines(facts: Mapping[str, Any]) -> list[str]:
    """Names and values of a record, one a line."""
    return _lines(facts, "")


def when(moment: str | None) -> str:
    """A time of the API for people: to the second, in UTC."""
    if moment is None or _MOMENT.fullmatch(moment) is None:
        return moment or NOTHING
    return f"{moment[:10]} {moment[11:19]}Z"


def short(digest: str) -> str:
    return digest[:DIGEST_SHOWN] if _DIGEST.fullmatch(digest) else digest


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lines(value: Any, indent: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [indent + _cell(value)]
    width = max((len(str(key)) for key, v in value.items() if not isinstance(v, Mapping | list) or not v), default=0)
    lines: list[str] = []
    for key, inner in value.items():
        name = str(key).replace("_", " ")
        if isinstance(inner, Mapping) and inner:
            lines += [f"{indent}{name}:", *_lines(inner, indent + "  ")]
        elif isinstance(inner, list) and any(isinstance(element, Mapping) for element in inner):
            lines += [f"{indent}{name}:", *(f"{indent}  {line}" for line in table(inner).splitlines())]
        else:
            lines.append(f"{indent}{name.ljust(width)}  {_text(inner)}")
    return lines


def _cell(value: Any) -> str:
    text = short(" ".join(_text(value).split()))
    return text if len(text) <= CELL_WIDTH_MAX else text[: CELL_WIDTH_MAX - 1] + "…"


def _text(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and all(isinstance(inner, str | int) for inner in value):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | Mapping) else when(str(value))
