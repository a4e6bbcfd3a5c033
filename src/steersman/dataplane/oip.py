"""The Open Inference Protocol at the router's edge: a request becomes what is asked, what was answered becomes a reply.

REST as the protocol has it, with its binary tensor extension both ways. Ours are three parameters: `event_ids`, on which
labels join later, may be given with a request and come back with the answer, and `variants` says which role answered each
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from steersman import __version__
from steersman.dataplane import protocol, tensors
from steersman.dataplane.configuration import Route
from steersman.dataplane.exchange import Refusal
from steersman.dataplane.protocol import EnvelopeError, InferEnvelope, Tensor
from steersman.dataplane.request import Answered, Asked
from steersman.domain.numbers import number_within

JSON_BYTES = b"inference-header-content-length"
BINARY = b"application/octet-stream"


def asked(body: bytes, headers: Mapping[bytes, bytes], at_us: int) -> Asked:
    """Read a request. Raises EnvelopeError, or a Refusal for a body that is no JSON by its own account."""
    json_bytes = _json_bytes(headers, len(body))
    envelope, rows = protocol.decode_envelope(body, json_bytes)
    if envelope.id is not None and len(envelope.id) > protocol.ID_CHARS_MAX:
        raise EnvelopeError(f"id: more than {protocol.ID_CHARS_MAX} characters")
    return Asked(body, envelope, protocol.event_ids_of(envelope, rows), at_us, json_bytes)


def _json_bytes(headers: Mapping[bytes, bytes], length: int) -> int | None:
    """Where the JSON ends in a body with tensors behind it; None for a body that is JSON alone."""
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        raise Refusal(415, f"content-encoding {encoding.decode('latin-1')[:40]!r}", "send the body as it is")
    given = headers.get(JSON_BYTES)
    if given is None:
        kind = headers.get(b"content-type", b"")
        if not (kind in _JSON_TYPES or kind.partition(b";")[0].strip().lower() in _JSON_TYPES):
            raise Refusal(
                415,
                f"content-type {kind.decode('latin-1')[:60]!r} is no inference request",
                "send application/json, or binary tensors with the header Inference-Header-Content-Length",
            )
        return None
    number = number_within(given, 1, length)
    if number is None:
        said = given[:20].decode("latin-1")
        raise EnvelopeError(
            f"Inference-Header-Content-Length {said!r} is not within 1..{length}, the length of the body"
        )
    return number if number < length else None


_JSON_TYPES = frozenset({b"application/json", b"text/json", b""})


def answer(model: str, given: Asked, answered: Answered) -> tuple[bytes, int | None]:
    """The reply's body, and where its JSON ends when tensors lie behind it.

    Raises EnvelopeError for an output nobody has, or one that has no binary form.
    """
    envelope = given.envelope
    outputs: bytes | Sequence[Tensor | msgspec.Raw] = answered.outputs
    behind: list[bytes] = []
    if envelope.outputs is not None or (envelope.parameters is not None and envelope.parameters.binary_data_output):
        outputs, behind = _chosen(envelope, answered.tensors())
    body = protocol.encode_answer(
        request_id=answered.id,
        model=model,
        version=answered.version,
        event_ids=answered.event_ids,
        variants=answered.variants,
        outputs=outputs,
    )
    if not behind:
        return body, None
    return b"".join((body, *behind)), len(body)


def _chosen(envelope: InferEnvelope, outputs: Sequence[Tensor]) -> tuple[list[Tensor | msgspec.Raw], list[bytes]]:
    """The outputs asked for, in the order asked; those wanted as bytes with the bytes apart."""
    parameters = envelope.parameters
    all_binary = parameters is not None and parameters.binary_data_output
    by_name = {one.name: one for one in outputs}
    wanted = dict.fromkeys(by_name, all_binary)
    if envelope.outputs is not None:
        wanted = {
            one.name: all_binary
            if one.parameters is None or one.parameters.binary_data is None
            else one.parameters.binary_data
            for one in envelope.outputs
        }
    if unknown := wanted.keys() - by_name:
        raise EnvelopeError(f"outputs: no output {min(unknown)!r}; there are {', '.join(by_name)}")
    shown: list[Tensor | msgspec.Raw] = []
    behind: list[bytes] = []
    for name, binary in wanted.items():
        if binary:
            described, data = tensors.encode_binary([by_name[name]])
            shown.append(msgspec.Raw(described[1:-1]))
            behind.append(data)
        else:
            shown.append(by_name[name])
    return shown, behind


def server_metadata() -> bytes:
    return msgspec.json.encode(
        {"name": "steersman", "version": __version__, "extensions": ["binary_tensor_data", "model_versions"]}
    )


def model_metadata(route: Route, versions: Sequence[str]) -> bytes:
    """What the model takes and gives. A model without a signature takes what it is sent."""
    inputs: list[dict[str, Any]] = [
        {"name": column.name, "datatype": column.type, "shape": [-1]} for column in route.signature
    ]
    return msgspec.json.encode(
        {
            "name": route.model,
            "versions": list(versions),
            "platform": "steersman",
            "inputs": inputs,
            "outputs": [{"name": route.output, "datatype": "FP64", "shape": [-1]}],
        }
    )
