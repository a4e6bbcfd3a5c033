"""The Merkle tree of RFC 6962 section 2: hashes, a compact frontier to append with, and both kinds of proof.

Appending needs only the *frontier*: the roots of the complete subtrees the leaves fall into, one for each set bit of
the tree's size, at most 63 hashes. It is stored beside the size, so an append costs a few hashes however long the log.

Proofs are made from the leaf hashes, given as a sequence or as a function of the index: that costs one pass over the
leaves (about 1 us each), which is rare and off the request path. Verification needs the proof alone. The verifier is
stricter than the RFC asks: every hash must be 32 bytes, so that no proof can smuggle another tree's shape in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HASH_BYTES = 32
"""SHA-256, the only hash of RFC 6962."""

SIZE_MAX = 2**63 - 1
"""Most leaves of a tree: what a signed 64-bit column of a database holds."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 6962 section 2.1)."""

Leaves = Sequence[bytes] | Callable[[int], bytes]
"""Leaf hashes, either all of them or a function from the index to the hash."""


class ProofError(ValueError):
    """A proof does not show what it is said to show; the message names the first thing wrong."""


def leaf_hash(body: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _checked(digest: bytes, what: str) -> bytes:
    if len(digest) != HASH_BYTES:
        raise ProofError(f"{what} must have {HASH_BYTES} bytes, has {len(digest)}")
    return digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """What an append has to know of a tree: its size and the roots of its complete subtrees, largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= SIZE_MAX:
            raise ValueError(f"a tree has 0..{SIZE_MAX} leaves, got {self.size}")
        if len(self.hashes) != self.size.bit_count():
            raise ValueError(
                f"a tree of {self.size} leaves has {self.size.bit_count()} complete subtrees, got {len(self.hashes)}"
            )
        for digest in self.hashes:
            _checked(digest, "a hash of the frontier")

    def append(self, leaf: bytes) -> Frontier:
        """Return the frontier after one more leaf hash; the index of that leaf is the old ``size``."""
        node = _checked(leaf, "a leaf hash")
        hashes = list(self.hashes)
        size = self.size
        while size & 1:  # every trailing one is a subtree that the new leaf completes
            node = node_hash(hashes.pop(), node)
            size >>= 1
        return Frontier(size=self.size + 1, hashes=(*hashes, node))

    def root(self) -> bytes:
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def to_bytes(self) -> bytes:
        """Eight bytes of size (big-endian), then the hashes: at most 2 kB."""
        return self.size.to_bytes(8, "big") + b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Frontier:
        """Raises ``ValueError`` when the number of hashes does not fit the size."""
        if len(stored) < 8 or (len(stored) - 8) % HASH_BYTES:
            raise ValueError(f"a stored frontier has 8 + n * {HASH_BYTES} bytes, got {len(stored)}")
        hashes = tuple(stored[at : at + HASH_BYTES] for at in range(8, len(stored), HASH_BYTES))
        return cls(size=int.from_bytes(stored[:8], "big"), hashes=hashes)


def _split(size: int) -> int:
    """The largest power of two below ``size`` (RFC 6962's k); ``size`` is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_root(leaf: Callable[[int], bytes], start: int, stop: int) -> bytes:
    """Root of the leaves ``start..stop``, in one pass and with a stack as deep as the tree.

    Each entry of the stack is the height of a complete subtree and its root. It is the frontier's rule without
    building a frontier a leaf, because proofs of long logs spend their time here.
    """
    stack: list[tuple[int, bytes]] = []
    for index in range(start, stop):
        height, node = 0, _checked(leaf(index), f"leaf hash {index}")
        while stack and stack[-1][0] == height:
            node = node_hash(stack.pop()[1], node)
            height += 1
        stack.append((height, node))
    if not stack:
        return EMPTY_ROOT
    root = stack.pop()[1]
    while stack:
        root = node_hash(stack.pop()[1], root)
    return root


def _reader(leaves: Leaves, size: int) -> Callable[[int], bytes]:
    if callable(leaves):
        return leaves
    if len(leaves) < size:
        raise ValueError(f"a tree of {size} leaves asked of {len(leaves)}")
    return leaves.__getitem__


def root_of(leaves: Leaves, size: int) -> bytes:
    """Root of the first ``size`` leaves."""
    return _range_root(_reader(leaves, size), 0, size)


def inclusion_proof(leaves: Leaves, index: int, size: int) -> tuple[bytes, ...]:
    """Siblings from the leaf up to the root's child (RFC 6962 section 2.1.1) of leaf ``index`` in ``size`` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    leaf = _reader(leaves, size)
    proof: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            proof.append(_range_root(leaf, middle, stop))
            stop = middle
        else:
            proof.append(_range_root(leaf, start, middle))
            start = middle
    return tuple(reversed(proof))


def consistency_proof(leaves: Leaves, earlier: int, size: int) -> tuple[bytes, ...]:
    """Nodes showing that the first ``earlier`` of ``size`` leaves are unchanged (RFC 6962 section 2.1.2).

    Empty when ``earlier`` is 0 or equal to ``size``: there is nothing to show then.
    """
    if not 0 <= earlier <= size:
        raise ValueError(f"a tree of {size} leaves has no earlier tree of {earlier}")
    leaf = _reader(leaves, size)
    proof: list[bytes] = []
    if earlier in (0, size):
        return ()
    start, stop, whole = 0, size, True  # whole: the earlier tree's root is a node of this path, known to the verifier
    while stop != earlier:
        middle = start + _split(stop - start)
        if earlier <= middle:
            proof.append(_range_root(leaf, middle, stop))
            stop = middle
        else:
            proof.append(_range_root(leaf, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(_range_root(leaf, start, stop))
    return tuple(reversed(proof))


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise ``ProofError`` unless ``proof`` shows that ``leaf`` is leaf ``index`` of the tree with ``root``."""
    if not 0 <= index < size <= SIZE_MAX:
        raise ProofError(f"leaf {index} is not in a tree of {size} leaves")
    node = _checked(leaf, "the leaf hash")
    _checked(root, "the root")
    position, last = index, size - 1
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        _checked(sibling, "a hash of the inclusion proof")
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:  # a right edge without siblings on this level
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the inclusion proof is too short")
    if node != root:
        raise ProofError(f"the inclusion proof leads to another root than that of the tree of {size} leaves")


def verify_consistency(*, earlier: int, earlier_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Raise ``ProofError`` unless ``proof`` shows that the earlier tree is a prefix of the later one."""
    if not 0 <= earlier <= size <= SIZE_MAX:
        raise ProofError(f"a tree of {size} leaves has no earlier tree of {earlier}")
    _checked(earlier_root, "the earlier root")
    _checked(root, "the root")
    if earlier in (0, size):
        if proof:
            raise ProofError(f"from {earlier} to {size} leaves a consistency proof is empty")
        if earlier == 0 and earlier_root != EMPTY_ROOT:
            raise ProofError("the earlier root is not that of an empty tree")
        if earlier == size and earlier_root != root:
            raise ProofError(f"two different roots for {size} leaves: the history was rewritten")
        return
    nodes = list(proof)
    if earlier & (earlier - 1) == 0:  # a complete tree: its root is where the path starts and is left out of the proof
        nodes.insert(0, earlier_root)
    if not nodes:
        raise ProofError("the consistency proof is too short")
    position, last = earlier - 1, size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = _checked(nodes[0], "a hash of the consistency proof")
    for node in nodes[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        _checked(node, "a hash of the consistency proof")
        if position & 1 or position == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, node)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the consistency proof is too short")
    if old != earlier_root:
        raise ProofError(f"the tree of {size} leaves does not extend the earlier tree of {earlier}: rewritten history")
    if new != root:
        raise ProofError(f"the consistency proof leads to another root than that of the tree of {size} leaves")
