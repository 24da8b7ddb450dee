"""The server as grpc-go and h2spec see it, each in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.unit.serving import go_programs, models
from tests.unit.serving.server import REVISION, Server, serving

from holdfast_devcluster import paths
from holdfast_serving.grpc import messages

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)
DESCRIPTORS = paths.REPOSITORY / "serving-image" / "holdfast_serving" / "grpc" / "descriptors.binpb"


@pytest.fixture(scope="module", params=["holdfast", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("go"), models.iris(), HOLDFAST_GRPC_TRANSPORT=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def seen(server: Server) -> Any:
    """All that the client saw."""
    command = [go_programs.program("grpc-go"), f"127.0.0.1:{server.grpc_port}", server.name, DESCRIPTORS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_grpc_go_is_told_what_is_served(seen: Any) -> None:
    assert (seen["ServerLive"], seen["ServerReady"], seen["health"]) == ({"live": True}, {"ready": True}, "SERVING")
    assert (seen["ServerMetadata"]["name"], seen["ModelMetadata"]["versions"]) == ("holdfast-serving", [REVISION])
    assert set(seen["reflection"]) == set(messages.SERVICES)


@pytest.mark.parametrize("form", ["typed", "raw", "typed gzip", "raw gzip"])
def test_grpc_go_gets_right_answers(seen: Any, form: str) -> None:
    label, probabilities = onnxruntime.InferenceSession(models.iris()).run(None, {"X": ROWS})
    first, second = seen[form]["outputs"]
    assert (seen[form]["id"], first["shape"], second["shape"]) == ("1", ["3"], ["3", "3"])
    if form.startswith("typed"):
        assert list(map(int, first["contents"]["int64Contents"])) == label.tolist()
        np.testing.assert_allclose(second["contents"]["fp32Contents"], probabilities.ravel(), 1e-6)
    assert seen[f"large {form}"] == ["60000"]


def test_grpc_go_is_answered_a_thousand_times_at_once_and_in_a_stream(seen: Any) -> None:
    assert seen["together"] == 1000
    assert seen["stream"] == [str(number) for number in range(200)]


def test_grpc_go_is_told_what_is_wrong(seen: Any) -> None:
    assert seen["another model"] == ["NotFound", "no model 'beer' here"]
    assert seen["no time"][0] == "DeadlineExceeded"


NOT_MEANT_FOR_GRPC = {
    # What h2spec asks for is no gRPC, and so is answered with a status and no data, for which it waits here.
    "Sends a WINDOW_UPDATE frame on half-closed (remote) stream",
    "Sends a PRIORITY frame on half-closed (remote) stream",
    # It is answered at once, and so there are never too many such requests at a time.
    "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
}


def test_h2spec_finds_no_fault_but_that_this_is_grpc(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris()) as server:
        text = h2spec(server.grpc_port)
        assert server.get("/v2/health/ready").status_code == 200
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", text)
    assert summary, text
    assert int(summary[1]) > 140
    failures = text.partition("Failures:")[2]
    assert set(re.findall(r"× \d+: (.+)", failures)) <= NOT_MEANT_FOR_GRPC, failures


def h2spec(port: int) -> str:
    program = go_programs.program("h2spec", "github.com/summerwind/h2spec/cmd/h2spec")
    address = ["-h", "127.0.0.1", "-p", str(port), "-P", "/grpc.health.v1.Health/Check"]
    done = subprocess.run(
        [program, *address, "--timeout", "4"], capture_output=True, text=True, timeout=200, check=False
    )
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout)
