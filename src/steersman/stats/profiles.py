"""What a column looked like in one window, in a few kilobytes that add up.

Monitors never scan the inference log again: each committed file is folded once into profiles per (version, window,
segment, column), windows are merged by adding profiles, and every drift statistic is a function of two profiles. Then a
threshold can be changed, or a month compared with a year, without touching data.

Numbers are counted in a *universal histogram*: the bin of a value is the top 18 bits of its float32 pattern, reordered
so that bins sort as values do. No range must be chosen beforehand, an outlier of 1e6 costs one bin instead of the
resolution of all others, two histograms always have the same bins, and adding counts is an exact merge. A bin is at most
0.2 % of its value wide. (A column with a large offset and a small spread, such as epoch seconds, collapses into few
bins; `bin_mass_max` bounds the error this causes in a KS distance.)
"""

import json
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["numeric", "categorical"]

BITS_KEPT = 18
"""Sign, 8 bits of exponent, 9 of mantissa: bins at most 2^-9 of their value wide, whole numbers exact up to 1,024."""

CATEGORIES_MAX = 256
"""Categories counted by name; rarer ones add up in `other`. 256 names of 20 letters are 5 kB before compression."""

BINCOUNT_FROM = 100_000
"""Rows from which counting into all 2^18 bins (2 MB) is faster than sorting the keys."""

BYTES_MAX = 16 * 2**20
"""Largest encoded profile that is read: all 2^18 bins take 3 MB before compression."""

_SHIFT = 32 - BITS_KEPT
_MAGIC = b"SSPR"
_VERSION = 1
_HEAD = struct.Struct("<4sBI")  # magic, version, length of the uncompressed body
_FLOAT32_MAX = float(np.finfo(np.float32).max)

Keys = NDArray[np.uint32]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """One column in one window. `keys` ascend; `counts` run in parallel; numeric fields are None without any value."""

    kind: Kind
    n: int  # rows, nulls counted
    nulls: int
    minimum: float | None = None
    maximum: float | None = None
    total: float = 0.0
    squares: float = 0.0
    keys: Keys
    counts: Counts
    categories: tuple[tuple[str, int], ...] = ()  # most frequent first, names break ties
    other: int = 0

    @property
    def values(self) -> int:
        """Rows that are not null."""
        return self.n - self.nulls

    @property
    def null_rate(self) -> float:
        """Share of nulls; NaN for no rows."""
        return self.nulls / self.n if self.n else math.nan

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN without any."""
        return self.total / self.values if self.values else math.nan

    @property
    def bin_mass_max(self) -> float:
        """Share of the values in the heaviest bin: what a KS distance can be wrong by at most."""
        return float(self.counts.max()) / self.values if self.counts.size else 0.0

    def __eq__(self, other: object) -> bool:
        """Equal where the encoded bytes are."""
        return isinstance(other, Profile) and to_bytes(self) == to_bytes(other)

    def __hash__(self) -> int:
        return hash(to_bytes(self))


def profile_numeric(values: ArrayLike) -> Profile:
    """Profile of numbers; NaN counts as null. Infinities and numbers beyond float32 are clipped to its range."""
    array = np.asarray(values, dtype=np.float64).ravel()
    present = array[~np.isnan(array)]
    present = np.clip(present, -_FLOAT32_MAX, _FLOAT32_MAX)
    if not present.size:
        return _numeric_empty(n=int(array.size))
    keys, counts = _count(_keys_of(present))
    return Profile(
        kind="numeric",
        n=int(array.size),
        nulls=int(array.size - present.size),
        minimum=float(present.min()),
        maximum=float(present.max()),
        total=float(np.sum(present)),
        squares=float(np.dot(present, present)),
        keys=keys,
        counts=counts,
    )


def profile_categorical(values: Iterable[str | None]) -> Profile:
    """Profile of names; None counts as null."""
    counts: dict[str, int] = {}
    nulls = 0
    for value in values:
        if value is None:
            nulls += 1
        else:
            counts[value] = counts.get(value, 0) + 1
    return profile_counts(counts, nulls=nulls)


def profile_counts(counts: Mapping[str, int], *, nulls: int = 0) -> Profile:
    """Profile of names already counted, by a data frame's group-by say."""
    if nulls < 0 or any(count < 0 for count in counts.values()):
        raise ValueError("counts must not be negative")
    return _categorical(counts, nulls=nulls, other=0)


def empty(kind: Kind) -> Profile:
    """The profile of no rows; merging it changes nothing."""
    return _numeric_empty(n=0) if kind == "numeric" else _categorical({}, nulls=0, other=0)


def merge(profiles: Sequence[Profile]) -> Profile:
    """The profile of all rows together. Raises ValueError for no profile or for different kinds.

    Counts add exactly; sums are added with one rounding, whatever the order. A category that was too rare
    for one window's list stays in `other` for that window's rows.
    """
    if not profiles:
        raise ValueError("nothing to merge")
    kinds = {profile.kind for profile in profiles}
    if len(kinds) > 1:
        raise ValueError("numeric and categorical profiles cannot be merged: the column changed its type")
    nulls = sum(profile.nulls for profile in profiles)
    if profiles[0].kind == "categorical":
        names: dict[str, int] = {}
        for profile in profiles:
            for name, count in profile.categories:
                names[name] = names.get(name, 0) + count
        return _categorical(names, nulls=nulls, other=sum(profile.other for profile in profiles))
    keys, places = np.unique(np.concatenate([profile.keys for profile in profiles]), return_inverse=True)
    counts = np.zeros(keys.size, dtype=np.int64)
    np.add.at(counts, places, np.concatenate([profile.counts for profile in profiles]))
    return Profile(
        kind="numeric",
        n=sum(profile.n for profile in profiles),
        nulls=nulls,
        minimum=min((p.minimum for p in profiles if p.minimum is not None), default=None),
        maximum=max((p.maximum for p in profiles if p.maximum is not None), default=None),
        total=math.fsum(profile.total for profile in profiles),
        squares=math.fsum(profile.squares for profile in profiles),
        keys=keys,
        counts=counts,
    )


def representatives(keys: Keys) -> NDArray[np.float64]:
    """One value for each bin: its end nearest to zero, which is exact for whole numbers up to 1,024."""
    bits = keys.astype(np.uint32) << np.uint32(_SHIFT)
    positive = (bits & np.uint32(0x80000000)) != 0
    low_bits_zero = np.uint32(0xFFFFFFFF << _SHIFT & 0xFFFFFFFF)
    pattern = np.where(positive, bits ^ np.uint32(0x80000000), ~bits & low_bits_zero).astype(np.uint32)
    return pattern.view(np.float32).astype(np.float64)


def quantile(profile: Profile, share: float) -> float:
    """The value below or at which `share` of the values lie, to the width of a bin; NaN without values."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must lie within 0..1, got {share}")
    if not profile.counts.size:
        return math.nan
    reached = np.cumsum(profile.counts)
    place = int(np.searchsorted(reached, share * reached[-1], side="left"))
    return float(representatives(profile.keys[place : place + 1])[0])


def to_bytes(profile: Profile) -> bytes:
    """Versioned, compressed encoding; equal profiles give equal bytes."""
    facts = {
        "kind": profile.kind,
        "n": profile.n,
        "nulls": profile.nulls,
        "minimum": profile.minimum,
        "maximum": profile.maximum,
        "total": profile.total,
        "squares": profile.squares,
        "bins": int(profile.keys.size),
        "categories": profile.categories,
        "other": profile.other,
    }
    head = json.dumps(facts, separators=(",", ":"), ensure_ascii=False).encode()
    steps = np.diff(profile.keys, prepend=np.uint32(0)).astype("<u4")  # small numbers, which compress well
    body = len(head).to_bytes(4, "little") + head + steps.tobytes() + profile.counts.astype("<i8").tobytes()
    return _HEAD.pack(_MAGIC, _VERSION, len(body)) + zlib.compress(body, 6)


def from_bytes(data: bytes) -> Profile:
    """Read `to_bytes`' encoding; raises ValueError on anything else."""
    if len(data) < _HEAD.size:
        raise ValueError("not a profile: too short")
    magic, version, length = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("not a profile")
    if version != _VERSION:
        raise ValueError(f"profile of format {version}, this Steersman reads {_VERSION}")
    if length > BYTES_MAX:
        raise ValueError(f"profile of {length} bytes is longer than {BYTES_MAX}")
    try:
        inflater = zlib.decompressobj()
        body = inflater.decompress(data[_HEAD.size :], length + 1)  # never more than it claims to hold
        head_end = 4 + int.from_bytes(body[:4], "little")
        facts = json.loads(body[4:head_end])
        bins = int(facts["bins"])
        if not inflater.eof or len(body) != length or length != head_end + 12 * bins:
            raise ValueError("its length does not fit")
        steps = np.frombuffer(body, dtype="<u4", count=bins, offset=head_end)
        counts = np.frombuffer(body, dtype="<i8", count=bins, offset=head_end + 4 * bins)
        return Profile(
            kind=facts["kind"],
            n=facts["n"],
            nulls=facts["nulls"],
            minimum=facts["minimum"],
            maximum=facts["maximum"],
            total=facts["total"],
            squares=facts["squares"],
            keys=np.cumsum(steps, dtype=np.uint32),
            counts=counts.astype(np.int64),
            categories=tuple((str(name), int(count)) for name, count in facts["categories"]),
            other=facts["other"],
        )
    except (zlib.error, ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"damaged profile: {problem}") from None


def _keys_of(values: NDArray[np.float64]) -> Keys:
    pattern = (values + 0.0).astype(np.float32).view(np.uint32)  # + 0.0 makes one zero of two
    negative = (pattern & np.uint32(0x80000000)) != 0
    ordered = np.where(negative, ~pattern, pattern | np.uint32(0x80000000)).astype(np.uint32)
    return ordered >> np.uint32(_SHIFT)


def _count(keys: Keys) -> tuple[Keys, Counts]:
    if keys.size < BINCOUNT_FROM:
        distinct, counts = np.unique(keys, return_counts=True)
        return distinct.astype(np.uint32), counts.astype(np.int64)
    all_counts = np.bincount(keys, minlength=1 << BITS_KEPT)
    occupied = np.flatnonzero(all_counts)
    return occupied.astype(np.uint32), all_counts[occupied].astype(np.int64)


def _numeric_empty(*, n: int) -> Profile:
    nothing = np.zeros(0, dtype=np.uint32)
    return Profile(kind="numeric", n=n, nulls=n, keys=nothing, counts=np.zeros(0, dtype=np.int64))


def _categorical(counts: Mapping[str, int], *, nulls: int, other: int) -> Profile:
    ordered = sorted(((name, count) for name, count in counts.items() if count), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ordered[CATEGORIES_MAX:]) + other
    return Profile(
        kind="categorical",
        n=sum(count for _, count in ordered) + other + nulls,
        nulls=nulls,
        keys=np.zeros(0, dtype=np.uint32),
        counts=np.zeros(0, dtype=np.int64),
        categories=tuple(ordered[:CATEGORIES_MAX]),
        other=rest,
    )
