"""Names that are safe everywhere: in a path of a URL, of a file, in an argument list, in a log line.

A name is parsed once, where it enters, and carried as `Name` from there on. It is never decoded a second time: `%2e`
is three characters that are not allowed, not a dot in waiting. Names still never become paths by themselves (files
are stored by digest); this alphabet is the second wall, for the day somebody forgets the first.
"""

from __future__ import annotations

import re
from typing import NewType

from steersman.domain.errors import BadRequest

Name = NewType("Name", str)

LENGTH_MAX = 128
"""Characters of a name: below the 255 bytes of a file name with room for a suffix."""

ALLOWED = "1 to 128 characters of a-z, 0-9, '.', '_' and '-', not beginning with '.' or '-', without '..'"

_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,127}", re.ASCII)


def parse_name(text: object, *, what: str = "name") -> Name:
    """`text` as a name; raises `BadRequest` that says what is allowed and shows the text in printable ASCII, cut short.

    A leading hyphen is refused because an argument list would read it as an option.
    """
    if isinstance(text, str) and _NAME.fullmatch(text) and ".." not in text:
        return Name(text)
    shown = ascii(text if isinstance(text, str) else type(text).__name__)
    shown = shown if len(shown) <= 60 else shown[:57] + "...'"
    raise BadRequest(f"the {what} {shown} is not allowed", next_step=f"Use {ALLOWED}.")
