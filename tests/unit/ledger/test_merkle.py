"""The tree against RFC 6962: published roots and proofs, then every shape up to 40 leaves, then attacks on proofs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    ProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The inputs and roots that the Certificate Transparency implementations share as their reference.
REFERENCE_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
REFERENCE_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(str(index).encode()) for index in range(count)]


def frontier_of(leaves: list[bytes]) -> Frontier:
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier


def test_roots_are_those_of_the_certificate_transparency_reference() -> None:
    frontier = Frontier()
    assert frontier.root().hex() == REFERENCE_ROOTS[0]
    for body, root in zip(REFERENCE_LEAVES, REFERENCE_ROOTS[1:], strict=True):
        frontier = frontier.append(leaf_hash(body))
        assert frontier.root().hex() == root


def test_the_inclusion_proof_of_the_rfc_is_sibling_by_sibling() -> None:
    # RFC 6962 section 2.1.3: with seven leaves the path of d3 is [c, g, l].
    leaves = leaves_of(7)
    c = leaves[2]
    g = node_hash(leaves[0], leaves[1])
    right = node_hash(node_hash(leaves[4], leaves[5]), leaves[6])
    assert inclusion_proof(leaves, 3, 7) == (c, g, right)


def test_the_consistency_proof_of_the_rfc_is_node_by_node() -> None:
    # RFC 6962 section 2.1.3: from three to seven leaves the proof is [c, d, g, l].
    leaves = leaves_of(7)
    g = node_hash(leaves[0], leaves[1])
    right = node_hash(node_hash(leaves[4], leaves[5]), leaves[6])
    assert consistency_proof(leaves, 3, 7) == (leaves[2], leaves[3], g, right)


def test_every_inclusion_and_consistency_proof_verifies_up_to_forty_leaves() -> None:
    leaves = leaves_of(40)
    roots = [root_of(leaves, size) for size in range(41)]
    for size in range(1, 41):
        for index in range(size):
            proof = inclusion_proof(leaves, index, size)
            verify_inclusion(leaf=leaves[index], index=index, size=size, proof=proof, root=roots[size])
        for earlier in range(size + 1):
            proof = consistency_proof(leaves.__getitem__, earlier, size)
            verify_consistency(earlier=earlier, earlier_root=roots[earlier], size=size, root=roots[size], proof=proof)


@given(bodies=st.lists(st.binary(max_size=40), max_size=70))
def test_appending_one_by_one_gives_the_root_of_the_whole_and_survives_storage(bodies: list[bytes]) -> None:
    frontier = Frontier()
    for body in bodies:
        frontier = Frontier.from_bytes(frontier.append(leaf_hash(body)).to_bytes())
    leaves = [leaf_hash(body) for body in bodies]
    assert frontier.size == len(bodies)
    assert frontier.root() == root_of(leaves, len(leaves))


@settings(max_examples=200)
@given(data=st.data(), size=st.integers(1, 300))
def test_no_changed_inclusion_proof_verifies(data: st.DataObject, size: int) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    root, proof = root_of(leaves, size), list(inclusion_proof(leaves, index, size))
    case = {"leaf": leaves[index], "index": index, "size": size, "proof": proof, "root": root}
    change = data.draw(st.sampled_from(["leaf", "index", "root", "drop", "double", "flip", "short", "append"]))
    if change == "leaf":
        case["leaf"] = leaf_hash(b"another")
    elif change == "index":
        case["index"] = data.draw(st.integers(-1, size).filter(lambda other: other != index))
    elif change == "root":
        case["root"] = hashlib.sha256(root).digest()
    elif change == "append" or not proof:
        case["proof"] = [*proof, root]
    else:
        at = data.draw(st.integers(0, len(proof) - 1))
        replaced = {
            "drop": [],
            "double": [proof[at], proof[at]],
            "flip": [bytes([proof[at][0] ^ 1]) + proof[at][1:]],
            "short": [proof[at][:12]],
        }
        case["proof"] = [*proof[:at], *replaced[change], *proof[at + 1 :]]
    with pytest.raises(ProofError):
        verify_inclusion(**case)  # type: ignore[arg-type]


@settings(max_examples=200)
@given(data=st.data(), size=st.integers(2, 200))
def test_no_rewritten_history_passes_as_an_extension(data: st.DataObject, size: int) -> None:
    earlier = data.draw(st.integers(1, size))
    rewritten = data.draw(st.integers(0, earlier - 1))
    honest = leaves_of(size)
    forged = [*honest[:rewritten], leaf_hash(b"rewritten"), *honest[rewritten + 1 :]]
    with pytest.raises(ProofError):
        verify_consistency(
            earlier=earlier,
            earlier_root=root_of(honest, earlier),
            size=size,
            root=root_of(forged, size),
            proof=consistency_proof(forged, earlier, size),
        )


@settings(max_examples=200)
@given(data=st.data(), size=st.integers(2, 200))
def test_no_changed_consistency_proof_verifies(data: st.DataObject, size: int) -> None:
    earlier = data.draw(st.integers(1, size - 1))
    leaves = leaves_of(size)
    proof = list(consistency_proof(leaves, earlier, size))
    at = data.draw(st.integers(0, len(proof) - 1))
    change = data.draw(
        st.sampled_from([[], [proof[at], proof[at]], [proof[at][:12]], [hashlib.sha256(proof[at]).digest()]])
    )
    with pytest.raises(ProofError):
        verify_consistency(
            earlier=earlier,
            earlier_root=root_of(leaves, earlier),
            size=size,
            root=root_of(leaves, size),
            proof=[*proof[:at], *change, *proof[at + 1 :]],
        )


def test_an_empty_tree_is_consistent_with_everything_but_only_as_an_empty_tree() -> None:
    root = root_of(leaves_of(5), 5)
    verify_consistency(earlier=0, earlier_root=EMPTY_ROOT, size=5, root=root, proof=())
    with pytest.raises(ProofError, match="empty tree"):
        verify_consistency(earlier=0, earlier_root=root, size=5, root=root, proof=())


def test_a_hash_of_another_length_than_32_bytes_is_refused() -> None:
    with pytest.raises(ProofError, match="32 bytes"):
        Frontier().append(b"\x00" * 12)
    with pytest.raises(ProofError, match="the root must have 32 bytes"):
        verify_inclusion(leaf=leaf_hash(b""), index=0, size=1, proof=(), root=b"dummy root..")


@pytest.mark.parametrize("stored", [b"", b"\x00" * 7, (2).to_bytes(8, "big"), (1).to_bytes(8, "big") + b"\x00" * 64])
def test_a_stored_frontier_that_does_not_fit_its_size_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r"frontier|complete subtrees"):
        Frontier.from_bytes(stored)
