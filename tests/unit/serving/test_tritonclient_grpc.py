"""The public client `tritonclient.grpc`, unchanged, in a process and an environment of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.serving import environments, models
from tests.unit.serving.iris import ROWS, classified, right
from tests.unit.serving.server import REVISION, serving


@pytest.fixture(scope="module", params=["holdfast sync", "holdfast aio", "grpcio sync", "grpcio aio"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All that the client saw, by transport of the server and flavour of the client."""
    transport, flavour = request.param.split()
    with serving(tmp_path_factory.mktemp("triton"), models.iris(), HOLDFAST_GRPC_TRANSPORT=transport) as server:
        address = f"127.0.0.1:{server.grpc_port}"
        return environments.run("triton-client", "triton_grpc.py", flavour, address, server.name, REVISION)


def test_it_is_told_what_is_served(seen: Any) -> None:
    assert [seen[name] for name in ("live", "ready", "model ready")] == [True, True, True]
    assert seen["server"]["name"] == "holdfast-serving"
    assert seen["model"]["inputs"] == [{"name": "X", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert [(model["name"], model["state"]) for model in seen["index"]["models"]] == [("wine", "READY")]
    config = seen["config"]["config"]
    assert (config["name"], config["input"][0]["data_type"]) == ("wine", "TYPE_FP32")


def test_it_gets_right_answers(seen: Any) -> None:
    assert list(seen["inferences"]) == ["usual", "chosen", "parameters", "with a deadline"]
    for name, given in seen["inferences"].items():
        right(given)
        assert given["id"] == ("é 1" if name == "chosen" else "")
    assert list(seen["inferences"]["chosen"]["outputs"]) == ["probabilities", "label"]


def test_it_can_ask_for_the_likeliest_classes(seen: Any) -> None:
    assert "classification" in seen["server"]["extensions"]
    classified(seen["classes"])
    assert seen["classes"]["outputs"]["label"]["dtype"] == "int64"


def test_compression_changes_nothing(seen: Any) -> None:
    for index, given in enumerate(seen["packed"]):
        right(given, np.tile(ROWS, (20_000, 1)) if index % 2 else ROWS)


def test_a_stream_is_answered_in_order_and_survives_an_error(seen: Any) -> None:
    assert len(seen["stream"]) == 20
    assert "no model 'beer' here" in seen["stream"][5]
    for number, given in enumerate(seen["stream"]):
        if number != 5:
            right(given)
            assert given["id"] == str(number)


def test_it_is_told_what_is_wrong(seen: Any) -> None:
    expected = {
        "another model": ("NOT_FOUND", "no model 'beer' here"),
        "another input": ("INVALID_ARGUMENT", "no input 'Y'"),
        "another shape": ("INVALID_ARGUMENT", "a shape that fits [-1, 4]"),
        "another output": ("INVALID_ARGUMENT", "no output 'Z'"),
        "a classification of labels": ("INVALID_ARGUMENT", "one element for each row"),
        "a shared memory region": ("INVALID_ARGUMENT", "an extension that this server does not have"),
        "load_model": ("FAILED_PRECONDITION", "serves what its Deployment says"),
        "unload_model": ("FAILED_PRECONDITION", "serves what its Deployment says"),
    }
    assert list(seen["failures"]) == list(expected)
    for name, (code, words) in expected.items():
        status, message = seen["failures"][name]
        assert (status, words in message) == (f"StatusCode.{code}", True), (name, message)


def test_it_sees_what_was_counted(seen: Any) -> None:
    (statistics,) = seen["statistics"]["model_stats"]
    assert int(statistics["inference_count"]) == 5 * 3 + 2 * 3 + 2 * 60_000
    assert int(statistics["inference_stats"]["success"]["count"]) == 9
