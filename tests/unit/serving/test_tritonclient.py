"""The public client `tritonclient`, unchanged, in a process and an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.serving import environments, models
from tests.unit.serving.iris import ROWS, classified, right
from tests.unit.serving.server import REVISION, serving, until

from holdfast_devcluster import paths


@pytest.fixture(scope="module", params=["sync", "aio"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All that the client saw."""
    with serving(tmp_path_factory.mktemp("triton"), models.iris()) as server:
        address = f"127.0.0.1:{server.port}"
        return environments.run("triton-client", "triton_http.py", request.param, address, server.name, REVISION)


def test_it_is_told_what_is_served(seen: Any) -> None:
    assert [seen[name] for name in ("live", "ready", "model ready", "another model ready")] == [True, True, True, False]
    assert seen["server"]["name"] == "holdfast-serving"
    assert "binary_tensor_data" in seen["server"]["extensions"]
    assert [(model["name"], model["state"]) for model in seen["index"]] == [("wine", "READY")]
    assert (seen["config"]["backend"], seen["config"]["max_batch_size"]) == ("onnxruntime", 256)
    assert seen["statistics"]["model_stats"][0]["version"] == REVISION
    assert seen["model"]["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]


def test_it_gets_right_answers_in_every_form(seen: Any) -> None:
    forms = {
        "binary": (True, True), "json": (False, False), "json to binary": (True, True),
        "binary to json": (False, False), "mixed": (True, False), "parameters": (True, True),
    }  # fmt: skip
    assert len(seen["inferences"]) == 2 * (len(forms) + 2)
    for name, binary in forms.items():
        for version in ("", REVISION):
            given = seen["inferences"][f"{name} {version}"]
            right(given)
            assert tuple(given["outputs"][output]["binary"] for output in ("probabilities", "label")) == binary
            assert given["id"] == ("é 1" if name == "mixed" else None)


def test_it_can_ask_for_the_likeliest_classes(seen: Any) -> None:
    assert "classification" in seen["server"]["extensions"]
    for version in ("", REVISION):
        for name, binary in (("classes", True), ("classes in json", False)):
            given = seen["inferences"][f"{name} {version}"]
            classified(given)
            assert given["outputs"]["probabilities"]["binary"] is binary


def test_compression_changes_nothing_in_either_direction(seen: Any) -> None:
    assert len(seen["packed"]) == 18
    for given in seen["packed"]:
        right(given, np.tile(ROWS, (2000, 1)))


def test_fifty_requests_at_once_are_answered(seen: Any) -> None:
    assert len(seen["together"]) == 50
    for given in seen["together"]:
        right(given)


def test_it_is_told_what_is_wrong(seen: Any) -> None:
    words = {
        "another input": "no input 'Y'",
        "another shape": "a shape that fits [-1, 4]",
        "a classification of labels": "one element for each row",
        "another output": "no output 'Z'",
        "a shared memory region": "an extension that this server does not have",
        "a load": "serves what its Deployment says",
    }
    assert list(seen["failures"]) == list(words)
    for name, (status, message) in seen["failures"].items():
        assert (status, words[name] in message) == ("403" if name == "a load" else "400", True), message


def test_an_environment_whose_maker_was_killed_is_made_anew(tmp_path: Path) -> None:
    code = "from tests.unit.serving import environments; print(environments.python('triton-client'))"
    settings = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(paths.REPOSITORY)}
    # The installer's own cache stays where it is.
    settings.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    with subprocess.Popen([sys.executable, "-c", code], env=settings) as first:
        until(lambda: any(tmp_path.glob("holdfast/environments/*/pyvenv.cfg")), "a folder")
        first.kill()
    assert not any(tmp_path.glob("holdfast/environments/*/ready"))
    made = subprocess.run([sys.executable, "-c", code], env=settings, check=True, stdout=subprocess.PIPE, text=True)
    subprocess.run([made.stdout.strip(), "-c", "import tritonclient.http, tritonclient.grpc"], check=True)
    began = os.stat(made.stdout.strip()).st_ctime
    again = subprocess.run([sys.executable, "-c", code], env=settings, check=True, stdout=subprocess.PIPE, text=True)
    assert (again.stdout, os.stat(again.stdout.strip()).st_ctime) == (made.stdout, began)
