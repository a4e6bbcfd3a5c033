"""Which variant answers a row: a pure function of the route's salt and the row's entity.

An entity (a passenger, a flight, an account) keeps its variant for the whole release, also on another router and after a
restart, because nothing is remembered: bucket = hash(salt, entity) mod 10,000, and the candidate owns the buckets from 0
up to its weight. Raising the weight only adds buckets, so ramping never takes an entity back from the candidate. A
mirror draws with its own salt: whether a row is copied says nothing about who answered it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from steersman.dataplane.configuration import BUCKETS
from steersman.dataplane.protocol import EnvelopeError, Tensor


def bucket_of(salt: str, entity: str) -> int:
    """A number in 0..9,999, uniform over entities (BLAKE2b keeps them apart whatever their pattern)."""
    digest = hashlib.blake2b(entity.encode(), digest_size=8, key=hashlib.blake2b(salt.encode()).digest()[:32]).digest()
    return int.from_bytes(digest, "big") % BUCKETS


class Splitter:
    """Assigns entities to the candidate or to stable, with the salt hashed once."""

    __slots__ = ("_candidate_below", "_key")

    def __init__(self, salt: str, candidate_pct: float) -> None:
        self._key = hashlib.blake2b(salt.encode()).digest()[:32]
        self._candidate_below = round(candidate_pct * BUCKETS / 100)

    def is_candidate(self, entity: str) -> bool:
        digest = hashlib.blake2b(entity.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") % BUCKETS < self._candidate_below

    def rows(self, entities: Sequence[str]) -> tuple[list[int], list[int]]:
        """Indices of the rows for stable, and of those for the candidate."""
        stable: list[int] = []
        candidate: list[int] = []
        for index, entity in enumerate(entities):
            (candidate if self.is_candidate(entity) else stable).append(index)
        return stable, candidate


def entity_text(value: Any) -> str:
    """How a sticky value of any JSON type is hashed and logged; 7 and "7" are one entity."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def take(inputs: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
    """The batch of `rows` only, in their order."""
    taken = []
    for tensor in inputs:
        width = tensor.shape[1] if len(tensor.shape) == 2 else 1
        if width == 1:
            data = [tensor.data[row] for row in rows]
        else:
            data = [value for row in rows for value in tensor.data[row * width : (row + 1) * width]]
        taken.append(Tensor(tensor.name, tensor.datatype, [len(rows), *tensor.shape[1:]], data))
    return taken


def spread(matrix: Tensor, names: Sequence[str]) -> list[Tensor]:
    """A matrix of all columns as one tensor a column, in the order of `names`. Raises EnvelopeError where it does not fit."""
    rows, width = matrix.shape
    if width != len(names):
        raise EnvelopeError(f"inputs: {matrix.name}: {width} columns, the signature has {len(names)}")
    return [Tensor(name, matrix.datatype, [rows], matrix.data[index::width]) for index, name in enumerate(names)]


def rejoin(parts: Sequence[tuple[Sequence[int], Sequence[Tensor]]], rows: int) -> list[Tensor]:
    """Put the outputs of parts back into the order of the whole batch.

    Every part answers with the same outputs; one that is missing in a part is null in that part's rows. Raises
    EnvelopeError where a part's data does not have the length its rows ask for.
    """
    names: list[str] = []
    joined: dict[str, Tensor] = {}
    for indices, outputs in parts:
        for tensor in outputs:
            width, rest = divmod(len(tensor.data), len(indices))
            if rest or width == 0:
                raise EnvelopeError(f"outputs: {tensor.name}: {len(tensor.data)} values for {len(indices)} rows")
            whole = joined.get(tensor.name)
            if whole is None:
                names.append(tensor.name)
                whole = Tensor(tensor.name, tensor.datatype, [rows, *tensor.shape[1:]], [None] * (rows * width))
                joined[tensor.name] = whole
            elif len(whole.data) != rows * width:
                raise EnvelopeError(f"outputs: {tensor.name}: the variants answer with different widths")
            if width == 1:
                for position, row in enumerate(indices):
                    whole.data[row] = tensor.data[position]
            else:
                for position, row in enumerate(indices):
                    whole.data[row * width : (row + 1) * width] = tensor.data[position * width : (position + 1) * width]
    return [joined[name] for name in names]
