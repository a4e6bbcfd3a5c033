"""One model's trouble stays its own: a broken document, table or registry must not keep the others waiting."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def every(items: Iterable[Item], act: Callable[[Item], bool]) -> bool:
    """Act on each item, whatever becomes of the ones before; True if anything moved.

    Raises the first error, but only after every item had its turn.
    """
    errors: list[Exception] = []
    moved = surviving(items, act, errors)
    if errors:
        raise errors[0]
    return moved


def surviving(items: Iterable[Item], act: Callable[[Item], bool], errors: list[Exception]) -> bool:
    """Act on each item, whatever becomes of the ones before, and keep what went wrong in `errors`."""
    moved = False
    for item in items:
        try:
            moved = act(item) or moved
        except Exception as error:  # whatever an adapter raises; the caller decides what becomes of it
            errors.append(error)
    return moved
