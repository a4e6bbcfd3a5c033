"""Commands about the inference log: erasing what belongs to one entity."""

from __future__ import annotations

import argparse
import sys

from steersman.cli import EXIT_DONE
from steersman.cli.output import show
from steersman.cli.session import connect
from steersman.domain.errors import BadRequest

FROM_INPUT = "-"


def log(arguments: argparse.Namespace) -> int:
    """`erase`: the only action so far."""
    entity = sys.stdin.readline().rstrip("\n") if arguments.entity == FROM_INPUT else arguments.entity
    if not entity:
        raise BadRequest("no entity was given", next_step="Give --entity VALUE, or --entity - and the value on a line.")
    show(connect(arguments).erase(arguments.model, entity=entity, because=arguments.because), arguments.output)
    return EXIT_DONE
