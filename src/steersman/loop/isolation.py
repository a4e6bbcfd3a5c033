"""One model's trouble stays its own: a broken document, table or registry must not keep the others waiting."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def every(items: Iterable[Item], act: Callable[[Item], bool]) -> bool:
    """Act on each item, whatever becomes of the ones before; True if anything moved.

    Raises the first error, but only after every item had its turn.
    """
    moved = False
    errors: list[Exception] = []
    for item in items:
        try:
            moved = act(item) or moved
        except Exception as error:  # whatever an adapter raises; it is raised again below
            errors.append(error)
    if errors:
        raise errors[0]
    return moved
