"""Data from real stores and web servers, and bundles into stores."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet
import pytest
from obstore.store import S3Store
from tests.unit.bundle.loopback import LOOPBACK
from tests.unit.stores import servers

from holdfast_bundle import manifest, verify
from holdfast_bundle.credentials import Credentials
from holdfast_bundle.fetch import fetch_model
from holdfast_training import gate, output, spec
from holdfast_training.access import Access
from holdfast_training.errors import TrainingError
from holdfast_training.output import StoreOutput, output_at
from holdfast_training.poll import poll
from holdfast_training.train import train


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    with servers.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def pod(s3: servers.S3, tmp_path: Path) -> Pod:
    return Pod(s3, tmp_path)


class Pod:
    """A trainer with Secrets for the server, mounted as in a pod."""

    def __init__(self, s3: servers.S3, folder: Path) -> None:
        self.s3, self.folder, self.bucket = s3, folder, f"s3://models/{folder.name}"
        self.access = Access(secrets=folder / "secrets")
        self.keys("data")
        self.keys("output")
        (folder / "scratch").mkdir()

    def keys(self, place: str, **changed: str) -> None:
        keys = {"AWS_ENDPOINT_URL": self.s3.url, "AWS_REGION": self.s3.region}
        keys |= {"AWS_ACCESS_KEY_ID": servers.KEY_ID, "AWS_SECRET_ACCESS_KEY": servers.KEY} | changed
        servers.secret(self.folder / "secrets" / place, **keys)

    def put(self, name: str, content: bytes) -> None:
        self.s3.put(f"{self.folder.name}/{name}", content)

    def document(self, uri: str, target: str = "y", **more: Any) -> dict[str, Any]:
        return {
            "data": {"uri": uri, "secretRef": {"name": "lake-read"}},
            "target": target,
            "task": "Classification",
            "estimators": [{"name": "GaussianNB"}],
            "output": {"uri": f"{self.bucket}/out", "folder": "run-1", "secretRef": {"name": "models-write"}},
            **more,
        }

    def output(self, document: dict[str, Any]) -> StoreOutput:
        run = spec.parse(json.dumps(document))
        credentials = self.access.to("output", run.output_secret)
        made = output_at(run.output_uri, run.output_folder, web=LOOPBACK, credentials=credentials)
        assert isinstance(made, StoreOutput)
        return made

    def train(self, document: dict[str, Any], **options: Any) -> dict[str, Any]:
        run = spec.parse(json.dumps(document))
        options = {"scratch": self.folder / "scratch", "web": LOOPBACK, "access": self.access} | options
        return train(run, self.output(document), **options)

    def objects(self) -> list[str]:
        config = {"endpoint": self.s3.url, "region": self.s3.region}
        config |= {"access_key_id": servers.KEY_ID, "secret_access_key": servers.KEY}
        store = S3Store("models", config=config, client_options={"allow_http": True})
        found = [meta["path"] for page in obstore.list(store, f"{self.folder.name}/out") for meta in page]
        return sorted(path.removeprefix(f"{self.folder.name}/out/") for path in found)

    def failure(self, document: dict[str, Any]) -> TrainingError:
        with pytest.raises(TrainingError) as ended:
            self.train(document)
        assert not any(path.endswith("manifest.json") for path in self.objects())
        assert not any(canary in ended.value.message for canary in ("canary", "X-Amz-Signature"))
        return ended.value


def table(rows: int = 60, **columns: Any) -> bytes:
    random = np.random.default_rng(1)
    y = np.arange(rows) % 2
    sink = pa.BufferOutputStream()
    made = {"a": y + random.normal(size=rows) / 9, "b": random.normal(size=rows), "y": y, **columns}
    pyarrow.parquet.write_table(pa.table(made), sink)
    return bytes(sink.getvalue())


def test_a_run_reads_a_folder_of_a_store_and_publishes_into_a_store(pod: Pod) -> None:
    pod.put("wine/year=2025/part-0.parquet", table())
    pod.put("wine/year=2026/part-0.parquet", table())
    pod.put("wine/_SUCCESS", b"")
    pod.put("wine/_temporary/0/part-9.parquet", b"half")
    report = pod.train(pod.document(f"{pod.bucket}/wine"))
    assert (report["data"]["rows"], report["data"]["columns"]) == (120, 4)
    assert report["model"]["uri"] == f"{pod.bucket}/out/run-1"
    folder = pod.folder / "served"
    credentials = pod.access.to("output", "models-write")
    path = fetch_model(report["model"]["uri"], folder, web=LOOPBACK, credentials=credentials)
    assert verify.verify(path, report["model"]["digest"]) == report["model"]["digest"]
    sealed = manifest.read(path).files
    assert {"model.onnx", "golden.json", "profile.json", "card.md", "explanation.json"} == set(sealed)
    assert pod.objects() == sorted(f"run-1/{name}" for name in (*sealed, "_run.json", "_started", "manifest.json"))


def test_a_finished_bundle_in_a_store_is_reported_again_with_the_version_of_its_data(pod: Pod) -> None:
    pod.put("data.parquet", table())
    document = pod.document(f"{pod.bucket}/data.parquet")
    first = pod.train(document)
    pod.put("data.parquet", b"so training would fail")
    events: list[str] = []
    assert pod.train(document, log=lambda event, **facts: events.append(event)) == first
    assert (events, first["data"]["version"][:7]) == (["found"], "sha256:")


@pytest.mark.parametrize("damage", ["manifest.json", "model.onnx"])
def test_a_wreck_in_a_store_is_no_bundle_and_is_replaced(pod: Pod, damage: str) -> None:
    pod.put("data.parquet", table())
    document = pod.document(f"{pod.bucket}/data.parquet")
    first = pod.train(document)
    pod.put(f"out/run-1/{damage}", b"half")
    assert pod.output(document).finished() is None
    assert pod.train(document) == first


def test_a_run_that_ends_in_the_middle_leaves_no_manifest(pod: Pod) -> None:
    pod.put("data.parquet", table())
    document = pod.document(f"{pod.bucket}/data.parquet", "none")
    assert pod.failure(document).reason == "ColumnNotFound"
    assert pod.objects() == ["run-1/_started"]


def test_the_manifest_is_the_last_to_be_written(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    put = StoreOutput._put

    def noting(self: StoreOutput, path: Path, name: str = "_started") -> None:
        written.append(name)
        put(self, path, name)

    monkeypatch.setattr(StoreOutput, "_put", noting)
    pod.put("data.parquet", table())
    pod.train(pod.document(f"{pod.bucket}/data.parquet"))
    assert (written[0], written[-1], len(written)) == ("_started", "manifest.json", 8)


def test_a_store_that_is_away_for_a_moment_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is killed after the data were read, and comes back on the same port."""
    monkeypatch.setattr(output, "_PAUSES_SECONDS", (0.3,) * 200)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        server = first.enter_context(servers.s3(tmp_path / "server"))
        pod = Pod(server, tmp_path)
        pod.put("data.parquet", table())
        back = threading.Timer(
            1, lambda: second.enter_context(servers.s3(tmp_path / "server", int(server.url.rpartition(":")[2])))
        )

        def log(event: str, **_: Any) -> None:
            if event == "measured":
                first.close()
                back.start()

        report = pod.train(pod.document(f"{pod.bucket}/data.parquet"), log=log)
        back.join()
        assert "run-1/manifest.json" in pod.objects()
        assert report["result"] == "Completed"


def test_a_missing_secret_waits_for_a_person_and_is_named(pod: Pod, tmp_path: Path) -> None:
    pod.put("data.parquet", table())
    for place, name in (("data", "lake-read"), ("output", "models-write")):
        servers.secret(pod.folder / "secrets" / place)
        error = pod_failure(pod)
        assert (error.reason, error.exit_code) == ("SecretNotFound", 4)
        assert f"Secret {name} does not exist in this namespace" in error.message
        pod.keys(place)
    pod.keys("data", AWS_REGION="not a region")
    error = pod_failure(pod)
    assert (error.reason, error.exit_code, "key AWS_REGION" in error.message) == ("SecretInvalid", 4, True)


def pod_failure(pod: Pod) -> TrainingError:
    return pod.failure(pod.document(f"{pod.bucket}/data.parquet"))


def test_the_keys_to_the_data_do_not_open_the_output(pod: Pod) -> None:
    pod.put("data.parquet", table())
    pod.keys("output", AWS_SECRET_ACCESS_KEY="canary-but-wrong")
    error = pod_failure(pod)
    assert (error.reason, error.exit_code) == ("OutputNotWritable", 1)
    assert "(keys of Secret models-write)" in error.message
    pod.keys("output")
    pod.keys("data", AWS_SECRET_ACCESS_KEY="canary-but-wrong")
    error = pod_failure(pod)
    assert (error.reason, error.exit_code) == ("DataAccessDenied", 3)
    assert "(keys of Secret lake-read)" in error.message


def test_data_that_are_not_there_are_said(pod: Pod) -> None:
    error = pod.failure(pod.document(f"{pod.bucket}/none"))
    assert (error.reason, error.exit_code) == ("DataNotFound", 3)


def test_a_bundle_goes_into_googles_store(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "google").mkdir()
    with servers.google(tmp_path / "google") as google:
        servers.secret(pod.folder / "secrets" / "output", **{"service-account__json": google.key})
        pod.put("data.parquet", table())
        document = pod.document(f"{pod.bucket}/data.parquet")
        document["output"]["uri"] = "gs://models/out"
        report = pod.train(document)
        assert report["model"]["uri"] == "gs://models/out/run-1"
        finished = pod.output(document).finished()
        assert finished is not None
        assert finished[0] == report["model"]["digest"]


def test_a_poll_of_a_store_reports_what_a_run_does_until_the_data_change(pod: Pod) -> None:
    pod.put("wine/a.parquet", table())
    document = pod.document(f"{pod.bucket}/wine")
    asked = json.dumps({"data": document["data"], "settleSeconds": 60})

    def version(sleep: Callable[[float], None] = lambda _: None) -> Any:
        return poll(asked, web=LOOPBACK, secrets=pod.folder / "secrets", sleep=sleep)["version"]

    before = version()
    assert pod.train(document)["data"]["version"] == before
    with pytest.raises(TrainingError) as caught:
        version(lambda _: pod.put("wine/b.parquet", table(80)))
    assert caught.value.reason == "DataChanging"
    after = version()
    assert after != before
    pod.put("wine/b.parquet", table(81))
    assert version() not in (before, after)


# --- a web server, and manifests


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A plain web server on a folder; its URL."""
    folder = tmp_path / "site"
    (folder / "wine").mkdir(parents=True)
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", folder / "wine"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_folder_of_a_web_server_is_what_its_manifest_lists(pod: Pod, site: tuple[str, Path]) -> None:
    url, folder = site
    document = pod.document(f"{url}/wine/")
    del document["data"]["secretRef"]
    error = pod.failure(document)
    assert (error.reason, "a folder there needs this file" in error.message) == ("DataNotFound", True)
    for number in range(3):
        (folder / f"part-{number}.parquet").write_bytes(table())
    (folder / "_manifest.json").write_text(json.dumps({"files": [{"name": f"part-{n}.parquet"} for n in (0, 2)]}))
    assert pod.train(document)["data"]["rows"] == 120
    wrong = {"files": [{"name": "part-0.parquet", "sha256": "0" * 64}]}
    (folder / "_manifest.json").write_text(json.dumps(wrong))
    document["output"]["folder"] = "run-2"
    with pytest.raises(TrainingError, match="the manifest beside it says") as ended:
        pod.train(document)
    assert ended.value.reason == "ChecksumMismatch"


def test_a_server_that_wants_to_know_who_asks_is_told(pod: Pod, site: tuple[str, Path]) -> None:
    url, folder = site
    (folder / "data.parquet").write_bytes(table())
    seen: list[str | None] = []
    Quiet.end_headers, original = (  # type: ignore[method-assign]
        lambda self: (seen.append(self.headers["Authorization"]), original(self))[1],
        Quiet.end_headers,
    )
    try:
        servers.secret(pod.folder / "secrets" / "data", token="word")
        pod.train(pod.document(f"{url}/wine/data.parquet"))
    finally:
        Quiet.end_headers = original  # type: ignore[method-assign]
    assert set(seen) == {"Bearer word"}


def test_credentials_for_a_place_are_its_own() -> None:
    access = Access("wine", {"AWS_ROLE_ARN": "role"}, Path("/secrets"))
    assert access.to("data", "lake") == Credentials("lake", Path("/secrets/data"), "wine", {"AWS_ROLE_ARN": "role"})


def test_a_gate_reads_both_models_and_all_rows_with_the_keys_to_each(pod: Pod) -> None:
    pod.put("data.parquet", table(400))
    pod.put("recent.parquet", table(500))
    split = {"method": "RowDigest", "testPercent": 30}
    document = pod.document(f"{pod.bucket}/data.parquet", split=split)
    model = pod.train(document)["model"]
    challenger = {key: model[key] for key in ("uri", "digest")}
    pod.keys("champion")
    pod.keys("rows")
    asked = {
        "champion": {**challenger, "secretRef": {"name": "models-read"}},
        "challenger": challenger,
        "training": document,
        "data": {"uri": f"{pod.bucket}/recent.parquet", "secretRef": {"name": "labels-read"}},
        "comparison": "NonInferior",
        "maxLossPerMille": 10,
        "maxSliceLossPerMille": 30,
        "maxLatencyPercent": 1000,
    }

    def judged(name: str) -> dict[str, Any]:
        scratch = pod.folder / name
        scratch.mkdir()
        return gate.judge(gate.parse(json.dumps(asked)), scratch=scratch, web=LOOPBACK, access=pod.access)

    assert judged("right")["passed"] is True
    places = {"champion": "models-read", "output": "models-write", "data": "lake-read", "rows": "labels-read"}
    for place, secret in places.items():
        pod.keys(place, AWS_SECRET_ACCESS_KEY="wrong-key-of-this-place")
        with pytest.raises(TrainingError, match=secret) as failed:
            judged(f"wrong-{place}")
        assert failed.value.reason in ("ModelAccessDenied", "DataAccessDenied")
        pod.keys(place)
