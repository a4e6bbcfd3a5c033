"""The router's door: who may ask for what, what a reply tells, and what of a request is kept."""

from __future__ import annotations

import base64
import hashlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from steersman.dataplane import privacy
from steersman.dataplane.configuration import Column, LogSettings, RouterConfiguration, TokenHash, WarmRoute
from steersman.testing.plane import STUMP, STUMP_SIGNATURE, TOKEN, Plane, stump, tensor

WHO = (*STUMP_SIGNATURE, Column(name="who", type="BYTES"))
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


class Stumps:
    """A router before three versions: 1 is stable, 2 a candidate without traffic, 3 only warm."""

    def __init__(self, plane: Plane, folder: Path) -> None:
        self.plane = plane
        digests = [plane.store(stump(folder / str(n), low=n / 10, high=n)) for n in (1, 2, 3)]
        addresses = [plane.worker(digest, **STUMP) for digest in digests]
        self.stable = plane.variant("stable", digests[0], addresses[:1])
        self.candidate = plane.variant(
            "candidate", digests[1], addresses[1:2], weight_pct=0.0, version="2", release="r2"
        )
        self.warm = WarmRoute(version="3", digest=digests[2], release="r3", addresses=(addresses[2],))

    def route(self, **settings: Any) -> None:
        settings.setdefault("signature", STUMP_SIGNATURE)
        self.plane.route(self.stable, self.candidate, warm=(self.warm,), **settings)

    def allow(self, *permissions: str) -> None:
        """Let the token do this and nothing else."""
        present = self.plane.admin("GET", "/configuration")[1]
        self.plane._generation += 1
        offered = msgspec.convert({**present, "generation": self.plane._generation}, RouterConfiguration)
        token = TokenHash(sha256=DIGEST, permissions=permissions)
        assert self.plane.configure(msgspec.structs.replace(offered, tokens=(token,)))[0] == 200


@pytest.fixture(scope="module")
def stumps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stumps]:
    folder = tmp_path_factory.mktemp("gateway")
    with Plane(folder / "state") as plane:
        plane.router()
        plane.committer()
        yield Stumps(plane, folder)


def ask(plane: Plane, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One call; status, headers with lower-case names, body."""
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=10)
    sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("POST", path, body, sent)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def request(**columns: list[Any]) -> bytes:
    return msgspec.json.encode({"inputs": [tensor(name, values) for name, values in columns.items()]})


ROW = request(x=[1.0], z=[0.0])


def test_a_reply_tells_version_release_variant_and_event_ids(stumps: Stumps) -> None:
    stumps.route()
    status, headers, body = ask(stumps.plane, stumps.plane.infer_path, request(x=[1.0, -1.0], z=[0.0, 0.0]))
    answer = msgspec.json.decode(body)
    assert status == 200
    assert {name: value for name, value in headers.items() if name.startswith("x-steersman")} == {
        "x-steersman-version": "1",
        "x-steersman-release": "r1",
        "x-steersman-variant": "stable",
        "x-steersman-event-ids": ",".join(answer["parameters"]["event_ids"]),
    }


def test_a_long_batch_tells_its_event_ids_in_the_body_alone(stumps: Stumps) -> None:
    stumps.route()
    _, headers, body = ask(stumps.plane, stumps.plane.infer_path, request(x=[1.0] * 500, z=[0.0] * 500))
    assert "x-steersman-event-ids" not in headers
    assert len(msgspec.json.decode(body)["parameters"]["event_ids"]) == 500


@pytest.mark.parametrize(("version", "score"), [("1", 1.0), ("2", 2.0), ("3", 3.0)])
def test_every_version_that_runs_can_be_asked_by_number_and_no_verdict_counts_it(
    stumps: Stumps, version: str, score: float
) -> None:
    stumps.route()
    path = f"/ops/production/v2/models/m/versions/{version}/infer"
    status, headers, body = ask(stumps.plane, path, ROW)
    answer = msgspec.json.decode(body)
    assert (status, answer["outputs"][0]["data"]) == (200, [score])
    assert (headers["x-steersman-version"], headers["x-steersman-variant"]) == (version, "override")
    stumps.plane.flush()
    rows = stumps.plane.log.read_files(stumps.plane.log.committed_files(stumps.plane.scope, {}))
    kept = rows.filter(pl.col("event_id") == answer["parameters"]["event_ids"][0])
    assert kept.select("version", "variant", "probability").rows() == [(version, "override", None)]


def test_a_version_by_number_takes_a_permission_of_its_own(stumps: Stumps) -> None:
    stumps.route()
    stumps.allow("predict")
    assert ask(stumps.plane, stumps.plane.infer_path, ROW)[0] == 200
    status, _, body = ask(stumps.plane, "/ops/production/v2/models/m/versions/1/infer", ROW)
    assert (status, msgspec.json.decode(body)["error"]) == (403, "the token lacks the permission override")


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        ("/ops/production/v2/models/m/infer", "predict"),
        ("/ops/production/v2/models/m/versions/3/infer", "override"),
        ("/ops/production/endpoints/m/invocations", "predict"),
        ("/ops/production/invocations", "predict"),
        ("/ops/labels/m", "label"),
    ],
)
def test_every_path_takes_its_permission_and_no_other_will_do(stumps: Stumps, path: str, permission: str) -> None:
    stumps.route()
    everything = {"predict", "override", "label", "metrics"}
    stumps.allow(*sorted(everything - {permission}))
    assert ask(stumps.plane, path, ROW)[0] == 403
    assert ask(stumps.plane, path, ROW, Authorization="")[0] == 401
    stumps.allow(permission)
    assert ask(stumps.plane, path, ROW)[0] not in (401, 403)


def test_the_figures_of_the_data_plane_take_their_permission(stumps: Stumps) -> None:
    stumps.route()
    stumps.allow("predict", "override", "label")
    assert stumps.plane.request("GET", "/metrics", b"")[0] == 403
    stumps.allow("metrics")
    status, page = stumps.plane.request("GET", "/metrics", b"")
    assert status == 200
    assert b'steersman_up{process="committer"} 1' in page
    assert stumps.plane.request("GET", "/metrics", b"", {"Authorization": ""})[0] == 401


def test_a_token_may_come_as_the_password_of_basic_authentication(stumps: Stumps) -> None:
    stumps.route()
    for text, status in ((f"anybody:{TOKEN}", 200), (f"{TOKEN}:", 401), ("anybody:wrong", 401)):
        credentials = base64.b64encode(text.encode()).decode()
        assert ask(stumps.plane, stumps.plane.infer_path, ROW, Authorization=f"Basic {credentials}")[0] == status
    assert ask(stumps.plane, stumps.plane.infer_path, ROW, Authorization="Basic ###")[0] == 401


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Content_Type": "text/csv"}, 415, "is no inference request"),
        ({"Content_Encoding": "gzip"}, 415, "content-encoding 'gzip'"),
        ({"Inference_Header_Content_Length": "9999"}, 400, "is not within"),
        ({"Inference_Header_Content_Length": "-1"}, 400, "is not within"),
        ({"Inference_Header_Content_Length": "1" * 5_000}, 400, "is not within"),
        ({"X_Steersman_Deadline_Ms": "soon"}, 400, "is not a number of milliseconds"),
        ({"X_Steersman_Deadline_Ms": "1" * 5_000}, 400, "is not a number of milliseconds"),
        ({"X_Steersman_Deadline_Ms": "\xb2"}, 400, "is not a number of milliseconds"),
        ({"X_Event_Time": "2013-03-01T05:00:00Z"}, 400, "in a replay only"),
    ],
)
def test_a_header_that_cannot_be_followed_is_refused_with_a_next_step(
    stumps: Stumps, headers: dict[str, str], status: int, says: str
) -> None:
    stumps.route()
    answered, _, body = ask(stumps.plane, stumps.plane.infer_path, ROW, **headers)
    said = msgspec.json.decode(body)
    assert (answered, says in said["error"], bool(said["next_step"])) == (status, True, True)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([tensor("x", [1.0]), tensor("z", [1.0, 2.0])], "2 rows, the first input has 1"),
        ([tensor("x", [1.0]), {"name": "z", "datatype": "FP64", "shape": [1], "data": [1, 2]}], "column 'z'"),
        ([tensor("x", [1.0])], "column 'z' is missing"),
        ([tensor("x", ["a"]), tensor("z", [1.0])], "column 'x'"),
        ([tensor("x", [1.0]), tensor("z", [1.0]), tensor("w", [1.0])], "unknown column 'w'"),
        ([{"name": "m", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}], "3"),
        ([{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}, tensor("z", [1.0])], "expected [rows]"),
    ],
)
def test_columns_that_do_not_fit_are_named_to_the_caller(stumps: Stumps, inputs: list[Any], says: str) -> None:
    stumps.route()
    status, _, body = ask(stumps.plane, stumps.plane.infer_path, msgspec.json.encode({"inputs": inputs}))
    assert (status in (400, 422), says in msgspec.json.decode(body)["error"]) == (True, True), body


@pytest.mark.parametrize(
    ("value", "status", "kept"),
    [(10**400, 422, None), (-(10**400), 422, None), (10**30, 200, 1e30)],
    ids=["far", "below", "wide"],
)
def test_a_number_no_column_holds_is_answered_in_words_and_its_row_committed(
    stumps: Stumps, value: int, status: int, kept: float | None
) -> None:
    """A whole number in JSON may have thousands of digits: no float holds it, and nobody's log may stop at it."""
    stumps.route()
    event = f"far-{kept}-{value > 0}"
    columns = [tensor("x", [1.0]), {**tensor("z", [0.0]), "data": [value]}]
    body = msgspec.json.encode({"inputs": columns, "parameters": {"event_ids": [event]}})
    answered, _, said = ask(stumps.plane, stumps.plane.infer_path, body)
    assert (answered, status == 200 or b"column 'z'" in said) == (status, True), said
    scored = msgspec.json.encode({"inputs": {"x": [1.0], "z": [value]}})
    answered, _, said = ask(stumps.plane, "/ops/production/endpoints/m/invocations", scored)
    assert answered == (200 if status == 200 else 400), said
    stumps.plane.flush()
    rows = stumps.plane.log.read_files(stumps.plane.log.committed_files(stumps.plane.scope, {}))
    found = rows.filter(pl.col("event_id") == event)
    assert found.select("status", pl.col("inputs").struct.field("z")).rows() == [(status, kept)]


def test_a_million_rows_are_refused_and_a_hundred_thousand_answered(stumps: Stumps) -> None:
    stumps.route()
    for rows, status in ((1_000_000, 400), (100_000, 200)):
        body = request(x=[1.0] * rows, z=[0.0] * rows)
        answered, _, said = ask(stumps.plane, stumps.plane.infer_path, body)
        assert answered == status
        assert answered == 200 or "expected 1 to 100000" in msgspec.json.decode(said)["error"]


# --- what is kept ------------------------------------------------------------------------------------------------------


def kept(plane: Plane, event_id: str) -> pl.DataFrame:
    plane.flush()
    table = plane.state / "tables" / "ops" / "production" / "m"
    frames = [pl.read_delta(str(path)) for path in sorted(table.glob("predictions*"))]
    return pl.concat([one.filter(pl.col("event_id") == event_id) for one in frames], how="diagonal_relaxed")


def bytes_on_disk(plane: Plane) -> bytes:
    files = [path for folder in ("wal", "tables") for path in (plane.state / folder).rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.parametrize("sticky_by", [None, "who"])
def test_what_is_dropped_or_hashed_never_reaches_a_disk(stumps: Stumps, sticky_by: str | None) -> None:
    plane, secret = stumps.plane, f"person-{sticky_by}"
    stumps.route(signature=WHO, sticky_by=sticky_by, log=LogSettings(drop=("z",), hash=("who",)))
    body = request(x=[1.0], z=[987654.25], who=[secret])
    status, headers, _ = ask(plane, plane.infer_path, body)
    assert status == 200
    assert secret.encode() not in bytes_on_disk(plane), "in the segment, before it is committed"
    rows = kept(plane, headers["x-steersman-event-ids"])
    digest = privacy.hashed(privacy.load_key(plane.state), "ops/m", "who", secret)
    assert rows["inputs"].struct.field("x").to_list() == [1.0]
    assert rows["inputs"].struct.field("who").to_list() == [digest]
    assert rows["entity"].to_list() == [None if sticky_by is None else digest]
    assert "z" not in [field.name for field in rows["inputs"].dtype.fields] or rows["inputs"].struct.field(  # type: ignore[attr-defined]
        "z"
    ).to_list() == [None]
    disk = bytes_on_disk(plane)
    assert secret.encode() not in disk
    assert b"987654.25" not in disk


def test_what_a_worker_says_of_a_private_models_request_is_for_the_caller_alone(stumps: Stumps) -> None:
    plane = stumps.plane
    stumps.route(signature=WHO, log=LogSettings(hash=("who",)))
    status, answer = plane.infer({"x": ["text"], "z": [0.0], "who": ["a"]}, event_ids=["refused"])
    assert (status, "column 'x'" in answer["error"]) == (422, True)
    assert kept(plane, "refused").select("status", "error").rows() == [(422, privacy.WITHHELD)]


def test_a_label_about_an_entity_is_hashed_as_its_column_is(stumps: Stumps) -> None:
    plane = stumps.plane
    stumps.route(signature=WHO, sticky_by="who", log=LogSettings(hash=("who",)))
    label = {"entity": "a-private-person", "time": "2026-01-01T00:00:00Z", "value": 1}
    assert plane.labels([label]) == (202, {"accepted": 1})
    plane.flush()
    assert b"a-private-person" not in bytes_on_disk(plane)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ({"value": 1}, "about an event_id, or about an entity and a time"),
        ({"value": 1, "entity": "a"}, "about an event_id, or about an entity and a time"),
        ({"value": 1, "event_id": "e", "entity": "a", "time": "2026-01-01T00:00:00Z"}, "about an event_id, or"),
        ({"value": 1, "entity": "a", "time": "yesterday"}, "is no RFC 3339 time"),
    ],
)
def test_a_label_about_nothing_or_two_things_is_refused(stumps: Stumps, label: dict[str, Any], says: str) -> None:
    stumps.route(sticky_by="who")
    status, answer = stumps.plane.labels([label])
    assert (status, says in answer["error"]) == (400, True)


def test_a_label_about_an_entity_of_a_model_that_has_none_is_refused(stumps: Stumps) -> None:
    stumps.route()
    status, answer = stumps.plane.labels([{"entity": "a", "time": "2026-01-01T00:00:00Z", "value": 1}])
    assert (status, "the model has no entity" in answer["error"]) == (400, True)


def test_sampling_keeps_a_share_of_the_events_and_answers_all(stumps: Stumps) -> None:
    plane = stumps.plane
    stumps.route(log=LogSettings(sampling=0.25))
    before = plane.admin("GET", "/counters")[1]
    ids = [f"sampled-{number}" for number in range(400)]
    assert {plane.infer({"x": [1.0], "z": [0.0]}, event_ids=[one])[0] for one in ids} == {200}
    after = plane.admin("GET", "/counters")[1]
    written = after["capture"]["records"] - before["capture"]["records"]
    assert after["router"]["sampled_out_rows"] - before["router"]["sampled_out_rows"] == 400 - written
    assert 60 <= written <= 140, "a quarter of 400, give or take five standard deviations"
