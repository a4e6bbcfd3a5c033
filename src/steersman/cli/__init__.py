"""`steersman`, the command line: every command in one table, loaded only when it runs.

A command line is used in loops and prompts, so it must start at once: the overview is printed from the table without
even argparse, and a command's own module is imported when that command runs. Exit codes: 0 done, 1 error (also a wrong
command line), 2 blocked by a gate or waiting for an approval.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # not typing's own: importing that takes a third of the time of `steersman --help`
if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_DONE, EXIT_ERROR, EXIT_BLOCKED = 0, 1, 2
EXIT_INTERRUPTED = 130
"""What shells use for Ctrl-C: 128 + SIGINT."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. The console script ends the process with it."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words in ([], ["--help"], ["-h"], ["help"]):
        from steersman.cli.manual import overview

        print(overview())
        return EXIT_DONE
    from steersman.cli.parsing import parse

    arguments = parse(words)
    if isinstance(arguments, int):
        return arguments
    import importlib

    from steersman.cli.output import print_error
    from steersman.domain.errors import Blocked, SteersmanError

    module, function = arguments.run.split(":")
    try:
        return int(getattr(importlib.import_module(module), function)(arguments))
    except SteersmanError as error:
        print_error(error, arguments.output)
        return EXIT_BLOCKED if isinstance(error, Blocked) else EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_ERROR
