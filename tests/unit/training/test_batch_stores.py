"""A batch from a real object store into it, with a Secret for each place; and from a web server."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.bundle.loopback import LOOPBACK, answer, serve
from tests.unit.serving import models
from tests.unit.stores import servers

from holdfast_bundle.fetch import fetch_file
from holdfast_bundle.listing import listing
from holdfast_bundle.uris import parse
from holdfast_training.access import Access
from holdfast_training.batch import source, spec
from holdfast_training.batch.parts import parts_at
from holdfast_training.batch.score import score
from holdfast_training.errors import TrainingError


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    with servers.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


class Pod:
    """Pods of one run, with Secrets mounted as in a cluster."""

    def __init__(self, s3: servers.S3, folder: Path) -> None:
        self.s3, self.folder, self.bucket = s3, folder, f"s3://models/{folder.name}"
        self.access = Access(secrets=folder / "secrets")
        self.log: list[str] = []
        for place in ("data", "output", "storage"):
            self.keys(place)
        s3.put(f"{folder.name}/iris.onnx", models.iris())
        self.rows = np.random.default_rng(7).uniform(0.1, 7, (400, 4)).round(2)
        for number in range(4):
            rows = enumerate(self.rows[100 * number :][:100], 100 * number)
            lines = [f"{name},{','.join(map(str, row))}" for name, row in rows]
            self.put(f"rows/{number}.csv", "\n".join(["id,a,b,c,d", *lines]) + "\n")

    def put(self, name: str, text: str) -> None:
        self.s3.put(f"{self.folder.name}/{name}", text.encode())

    def keys(self, place: str, **changed: str) -> None:
        keys = {"AWS_ENDPOINT_URL": self.s3.url, "AWS_REGION": self.s3.region}
        keys |= {"AWS_ACCESS_KEY_ID": servers.KEY_ID, "AWS_SECRET_ACCESS_KEY": servers.KEY} | changed
        servers.secret(self.folder / "secrets" / place, **keys)

    def run(self, index: int) -> dict[str, Any]:
        document = {
            "model": {"uri": f"{self.bucket}/iris.onnx", "secretRef": {"name": "models-read"}},
            "input": {"uri": f"{self.bucket}/rows/", "secretRef": {"name": "lake-read"}},
            "output": {"uri": f"{self.bucket}/scored", "folder": "run", "secretRef": {"name": "lake-write"}},
            "keepColumns": ["id"],
            "batchRows": 16,
            "maxBadRowsPerMille": 0,
            "pods": 2,
            "shards": 8,
        }
        batch = spec.parse(json.dumps(document), index)
        scratch = self.folder / f"scratch-{len(list(self.folder.glob('scratch-*')))}"
        scratch.mkdir()
        self.log.clear()
        credentials = self.access.to("output", batch.output_secret)
        parts = parts_at(batch.output_uri, batch.output_folder, 8, web=LOOPBACK, credentials=credentials)
        report = score(
            batch,
            parts,
            scratch=scratch,
            web=LOOPBACK,
            access=self.access,
            log=lambda event, **_: self.log.append(event),
        )
        assert len(list(scratch.glob("data/input-*"))) <= 1, "files stay though they are done with"
        return report

    def objects(self) -> list[str]:
        found = listing(parse(f"{self.bucket}/scored/run"), web=LOOPBACK, credentials=self.access.to("output", "x"))
        return [entry.name for entry in found.entries]

    def answers(self) -> pa.Table:
        tables = []
        for name in self.objects():
            if name.endswith(".parquet"):
                path = self.folder / "read.parquet"
                uri = f"{self.bucket}/scored/run/{name}"
                fetch_file(uri, path, web=LOOPBACK, credentials=self.access.to("output", "x"))
                tables.append(pq.read_table(path))
        return pa.concat_tables(tables)


@pytest.fixture
def pod(s3: servers.S3, tmp_path: Path) -> Pod:
    return Pod(s3, tmp_path)


def test_pods_score_what_lies_in_a_store_into_it_and_the_last_one_says_success(pod: Pod) -> None:
    assert pod.run(1) == {"result": "Partial"}
    assert "_SUCCESS" not in pod.objects()
    report = pod.run(0)
    assert (report["result"], report["rowsWritten"]) == ("Completed", 400)
    parts = [f"part-{number:05}.parquet" for number in range(8)]
    assert pod.objects() == ["_SUCCESS", "_started", *parts]
    answers = pod.answers()
    assert answers["id"].to_pylist() == [str(number) for number in range(400)]

    session = onnxruntime.InferenceSession(models.iris())
    [label] = session.run(["label"], {"X": pod.rows.astype(np.float32)})
    assert answers["label"].to_pylist() == label.tolist()
    assert pod.run(0) == report
    assert pod.log == ["found"]


def test_a_pod_finds_what_it_has_done_by_the_footers_in_the_store(pod: Pod) -> None:
    pod.run(0)
    assert pod.run(0) == {"result": "Partial"}
    assert pod.log.count("skipped") == 4
    pod.put("rows/0.csv", "id,a,b,c,d\n0,1,1,1,1\n")
    with pytest.raises(TrainingError) as ended:
        pod.run(0)
    assert ended.value.reason == "InputInvalid"
    assert "has changed since the run began" in ended.value.message


@pytest.mark.parametrize("place", ["data", "output", "storage"])
def test_a_secret_that_is_not_there_waits_for_a_person(pod: Pod, place: str) -> None:
    shutil.rmtree(pod.folder / "secrets" / place)
    with pytest.raises(TrainingError) as ended:
        pod.run(0)
    assert (ended.value.reason, ended.value.exit_code) == ("SecretNotFound", 4)


@pytest.mark.parametrize(
    ("place", "reason"),
    [("data", "InputAccessDenied"), ("output", "OutputNotWritable"), ("storage", "ModelAccessDenied")],
)
def test_keys_that_the_store_does_not_take_are_told_by_place(pod: Pod, place: str, reason: str) -> None:
    pod.keys(place, AWS_SECRET_ACCESS_KEY="wrong")
    with pytest.raises(TrainingError) as ended:
        pod.run(0)
    assert ended.value.reason == reason
    assert "wrong" not in ended.value.message


def rows_of(url: str, scratch: Path, shards: int = 3) -> list[str]:
    """The ids in all shards of what a web server gives, each read by a pod of its own."""
    found = []
    for shard in range(shards):
        own = scratch / f"pod-{len(list(scratch.glob('pod-*')))}"
        own.mkdir()
        there = source.locate(url, None, None, scratch=own, web=LOOPBACK)
        assert there.is_unchanged()
        found += [name for chunk in there.shard(shard, shards, ["id"]) for name in chunk.table["id"].to_pylist()]
    return found


TABLE = b"id,a\n" + b"".join(b"%d,x\n" % number for number in range(50))


@pytest.mark.parametrize("headers", [(), ('ETag: "1"',), ("Last-Modified: Thu, 26 Nov 2026 00:00:00 GMT",)])
def test_a_file_of_a_web_server_is_cut_whether_or_not_it_tells_its_version(
    tmp_path: Path, headers: tuple[str, ...]
) -> None:
    with serve() as origin:
        origin.pages["/rows.csv"] = answer(TABLE, "200 OK", *headers)
        assert rows_of(origin.url("/rows.csv"), tmp_path) == [str(number) for number in range(50)]
        before = source.locate(origin.url("/rows.csv"), None, None, scratch=tmp_path, web=LOOPBACK).version
        changed = [header.replace("1", "2").replace("26", "27") for header in headers]
        origin.pages["/rows.csv"] = answer(TABLE.replace(b"x", b"y"), "200 OK", *changed)
        (tmp_path / "input-0").unlink(missing_ok=True)
        assert source.locate(origin.url("/rows.csv"), None, None, scratch=tmp_path, web=LOOPBACK).version != before


def test_a_folder_of_a_web_server_has_the_files_of_its_manifest(tmp_path: Path) -> None:
    listed = [{"name": "b.csv"}, {"name": "a.csv", "sha256": hashlib.sha256(TABLE).hexdigest()}]
    with serve() as origin:
        origin.pages["/rows/_manifest.json"] = answer(json.dumps({"files": listed}).encode())
        origin.pages["/rows/a.csv"] = answer(TABLE)
        origin.pages["/rows/b.csv"] = answer(b"id,a\nlast,x\n")
        assert rows_of(origin.url("/rows/"), tmp_path) == [*map(str, range(50)), "last"]
        origin.pages["/rows/a.csv"] = answer(TABLE.replace(b"x", b"y"))
        with pytest.raises(TrainingError) as ended:
            rows_of(origin.url("/rows/"), tmp_path)
        assert ended.value.reason == "ChecksumMismatch"
