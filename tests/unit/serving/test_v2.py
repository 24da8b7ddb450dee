"""The Open Inference Protocol as a client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from tests.unit.serving import models
from tests.unit.serving.codec import EXTREMES, Codec
from tests.unit.serving.server import REVISION, Server, request, serving

from holdfast_bundle.manifest import Tensor
from holdfast_serving.codec import RestCodec
from holdfast_serving.inference import Outputs
from holdfast_serving.problems import Problem
from holdfast_serving.signature import Signature

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]
IRIS = ("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2])


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("iris"), models.iris()) as server:
        yield server


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("colours"), models.colours()) as server:
        yield server


def test_server_metadata_names_the_extensions_that_there_are(iris: Server) -> None:
    for path in ("/v2", "/v2/"):
        assert iris.get(path).json() == {
            "name": "holdfast-serving",
            "version": "0.1.0",
            "extensions": EXTENSIONS,
        }


def test_model_metadata_has_the_revision_as_its_version(iris: Server) -> None:
    expected = {
        "name": "wine",
        "versions": [REVISION],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
        "parameters": {"batching": True, "max_batch_rows": 256, "threads": 1, "parallel_runs": 1, "processes": 1},
    }
    for path in (
        "/v2/models/wine",
        "/v2/models/wine/",
        f"/v2/models/wine/versions/{REVISION}",
        "/v2/models/w%69ne?x=1",
    ):
        assert iris.get(path).json() == expected


def test_the_repository_has_the_one_model(iris: Server) -> None:
    assert iris.get("/v2/models").json() == {"models": ["wine"]}
    indexed = [{"name": "wine", "version": REVISION, "state": "READY", "reason": ""}]
    for body in (b"", b"{}", b'{"ready":true}', b'{"ready":false,"x":1}'):
        answer = httpx.post(f"{iris.url}/v2/repository/index", content=body, timeout=60)
        assert (answer.status_code, answer.json()) == (200, indexed)
    for body in (b"[]", b"{", b'{"ready":1}', b'{"ready":null}', b'"ready"', b"null"):
        answer = httpx.post(f"{iris.url}/v2/repository/index", content=body, timeout=60)
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_the_configuration_is_what_clients_of_triton_look_for(iris: Server) -> None:
    for path in ("/v2/models/wine/config", f"/v2/models/wine/versions/{REVISION}/config/"):
        assert iris.get(path).json() == {
            "name": "wine",
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": 256,
            "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [4]}],
            "output": [
                {"name": "label", "data_type": "TYPE_INT64", "dims": []},
                {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [3]},
            ],
            "instance_group": [{"name": "wine", "kind": "KIND_CPU", "count": 1}],
            "dynamic_batching": {},
        }


def test_a_model_that_is_not_batched_is_configured_so(tmp_path: Path) -> None:
    with serving(tmp_path, models.total()) as server:
        configuration = server.get("/v2/models/wine/config").json()
    assert configuration["max_batch_size"] == 0
    assert configuration["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}]
    assert "dynamic_batching" not in configuration


def test_statistics_count_rows_runs_and_failures(tmp_path: Path) -> None:
    def get(path: str) -> dict[str, Any]:
        (found,) = server.get(path).json()["model_stats"]
        assert isinstance(found, dict)
        return found

    with serving(tmp_path, models.lookup()) as server:
        fresh = get("/v2/models/stats")
        assert (fresh["name"], fresh["version"], fresh["last_inference"]) == ("wine", REVISION, 0)
        assert fresh["batch_stats"] == []
        for rows in (1, 1, 3):
            server.ask(i=("INT64", [rows], [0] * rows))
        assert server.infer(request(i=("INT64", [2], [0, 99]))).status_code == 500
        for path in ("/v2/models/stats", "/v2/models/wine/stats", f"/v2/models/wine/versions/{REVISION}/stats"):
            after = get(path)
            assert (after["inference_count"], after["execution_count"]) == (5, 3)
            assert abs(after["last_inference"] / 1000 - time.time()) < 60
            counts = {name: duration["count"] for name, duration in after["inference_stats"].items()}
            assert counts == {
                "success": 3, "fail": 1, "queue": 4, "compute_input": 3, "compute_infer": 3, "compute_output": 3,
                "cache_hit": 0, "cache_miss": 0,
            }  # fmt: skip
            for name in ("success", "fail", "queue", "compute_infer", "compute_output"):
                assert 0 < after["inference_stats"][name]["ns"] < 60e9
            assert [(size["batch_size"], size["compute_infer"]["count"]) for size in after["batch_stats"]] == [
                (1, 2), (3, 1)
            ]  # fmt: skip
            assert all(0 < size["compute_output"]["ns"] < 60e9 for size in after["batch_stats"])


def test_batch_sizes_that_are_told_apart_are_bounded() -> None:
    from holdfast_serving.statistics import MAX_SIZES, Statistics

    statistics = Statistics()
    for rows in range(2 * MAX_SIZES):
        statistics.count_run(rows, 1, 0.5, 0.25)
    assert (len(statistics.sizes), statistics.runs, statistics.infer) == (MAX_SIZES, 2 * MAX_SIZES, float(MAX_SIZES))


def test_models_are_not_loaded_and_unloaded_by_request(iris: Server) -> None:
    for change in ("load", "unload"):
        answer = httpx.post(f"{iris.url}/v2/repository/models/wine/{change}", timeout=60)
        assert answer.status_code == 403
        assert "serves what its Deployment says" in answer.json()["error"]
        answer = httpx.post(f"{iris.url}/v2/repository/models/beer/{change}", timeout=60)
        assert (answer.status_code, answer.json()) == (404, {"error": "no model 'beer' here"})


def test_a_healthy_server_is_live_and_ready(iris: Server) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/health/ready/", "/v2/models/wine/ready"):
        assert iris.get(path).status_code == 200
    assert iris.get("/v2/models/wine/ready").json() == {"name": "wine", "ready": True}
    assert iris.get(f"/v2/models/wine/versions/{REVISION}/ready").json()["ready"] is True


@pytest.mark.parametrize("path", ["wine/infer", "wine/infer/", f"wine/versions/{REVISION}/infer"])
def test_an_answer_is_what_the_runtime_says(iris: Server, path: str) -> None:
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)
    label, probabilities = onnxruntime.InferenceSession(models.iris()).run(None, {"X": rows})
    body = {"id": "é 42", **request(X=("FP32", [3, 4], rows.astype(float).ravel().tolist()))}
    answer = httpx.post(f"{iris.url}/v2/models/{path}", json=body, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    answered = answer.json()
    assert (answered["model_name"], answered["model_version"], answered["id"]) == ("wine", REVISION, "é 42")
    assert answered["outputs"][0] == {"name": "label", "datatype": "INT64", "shape": [3], "data": label.tolist()}
    assert answered["outputs"][1]["shape"] == [3, 3]
    np.testing.assert_allclose(answered["outputs"][1]["data"], probabilities.ravel(), 1e-6)


def test_data_may_be_nested_as_its_shape(iris: Server) -> None:
    flat = iris.ask(X=("FP32", [2, 4], [5.1, 3.5, 1.4, 0.2, 6.7, 3.0, 5.2, 2.3]))
    assert iris.ask(X=("FP32", [2, 4], [[5.1, 3.5, 1.4, 0.2], [6.7, 3, 5.2, 2.3]])) == flat


def test_only_the_wanted_outputs_come_in_the_wanted_order(iris: Server) -> None:
    both = iris.ask(X=IRIS)
    for wanted in (["label"], ["probabilities"], ["probabilities", "label"]):
        answer = iris.infer(request(X=IRIS) | {"outputs": [{"name": name} for name in wanted]}).json()
        assert answer["outputs"] == [both[name] for name in wanted]
    assert len(iris.infer(request(X=IRIS) | {"outputs": []}).json()["outputs"]) == 2


def test_without_an_id_none_is_answered(iris: Server) -> None:
    assert "id" not in iris.infer(request(X=IRIS)).json()
    assert iris.infer(request(X=IRIS) | {"id": ""}).json()["id"] == ""


def test_strings_and_numbers_of_several_inputs_reach_the_pipeline(colours: Server) -> None:
    texts, sizes = ["red", "blue", "no such", "green"], [5.0, 0.0, 6.0, None]
    answer = colours.ask(colour=("BYTES", [4, 1], texts), size=("FP32", [4, 1], sizes))
    assert answer["label"]["datatype"] == "BYTES"
    # The third colour is unknown to the encoder; the fourth size is missing, for which the median (3) stands.
    labels = answer["label"]["data"]
    assert (labels[0], labels[1], labels[3]) == ("red, big", "blue, small", "green, small")
    assert colours.ask(size=("FP32", [4, 1], sizes), colour=("BYTES", [4, 1], texts)) == answer


def test_inputs_with_different_numbers_of_rows_are_refused(colours: Server) -> None:
    answer = colours.infer(request(colour=("BYTES", [2, 1], ["red", "red"]), size=("FP32", [1, 1], [1.0])))
    assert (answer.status_code, "same number of rows" in answer.text) == (400, True)


@pytest.mark.parametrize("datatype", EXTREMES)
@pytest.mark.parametrize("fixed", [False, True], ids=["rows", "fixed shape"])
def test_every_value_of_every_datatype_comes_back_as_it_went(tmp_path: Path, datatype: str, fixed: bool) -> None:
    codec = Codec(models.echo(datatype, 3 if fixed else None), tmp_path)
    answer = codec.ask(request(x=(datatype, [3], EXTREMES[datatype])))
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", datatype, [3])
    if datatype == "FP32":
        np.testing.assert_array_equal(np.array(output["data"], np.float32), np.array(EXTREMES[datatype], np.float32))
    else:
        assert output["data"] == EXTREMES[datatype]


WRONG: dict[str, list[Any]] = {
    "BOOL": [0, 1.0, "true", None],
    "BYTES": [1, True, None, ["x"]],
    "FP32": ["1", True, [1.0], {}],
    "FP64": ["1", False, [1.0], {}],
    "INT8": [128, -129, 1.0, "1", True, None],
    "INT16": [2**15, 1.5],
    "INT32": [2**31, -(2**31) - 1],
    "INT64": [2**63, 1e3],
    "UINT8": [256, -1],
    "UINT16": [2**16, -1],
    "UINT32": [2**32, -1],
    "UINT64": [2**64, -1],
}


@pytest.mark.parametrize("datatype", WRONG)
def test_values_that_are_not_of_the_datatype_are_refused(tmp_path: Path, datatype: str) -> None:
    from holdfast_serving.problems import Problem

    codec = Codec(models.echo(datatype, None), tmp_path)
    for value in WRONG[datatype]:
        with pytest.raises(Problem) as caught:
            codec.ask(request(x=(datatype, [2], [EXTREMES[datatype][0], value])))
        assert caught.value.status == 400, value


def test_fp16_is_refused_in_words_since_json_cannot_carry_it(tmp_path: Path) -> None:
    from holdfast_serving.problems import Problem

    codec = Codec(models.echo("FP16", None), tmp_path)
    with pytest.raises(Problem, match="FP16, which JSON cannot carry"):
        codec.ask(request(x=("FP16", [1], [1.0])))
    half = models.build(
        [models.node("Cast", "x", "half", to=10), models.node("Identity", "x", "y")],
        {"x": (models.FLOAT, [None])},
        {"half": (10, [None]), "y": (models.FLOAT, [None])},
    )
    codec = Codec(half, tmp_path)
    with pytest.raises(Problem, match="'half' is FP16"):
        codec.ask(request(x=("FP32", [1], [1.0])))
    answer = codec.ask(request(x=("FP32", [1], [1.0])) | {"outputs": [{"name": "y"}]})
    assert answer["outputs"][0]["data"] == [1.0]


def test_scalars_and_outputs_without_rows_keep_their_shape(tmp_path: Path) -> None:
    answer = Codec(models.total(), tmp_path).ask(request(x=("FP32", [2, 3], [1, 2, 3, 4, 5, 6])))
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [], "data": [21.0]}]
    answer = Codec(models.echo("INT64"), tmp_path).ask(request(x=("INT64", [], [7])))
    assert answer["outputs"][0]["data"] == [7]
    answer = Codec(models.echo("FP32", 2, 3), tmp_path).ask(request(x=("FP32", [2, 3], [[1, 2, 3], [4, 5, 6]])))
    assert (answer["outputs"][0]["shape"], answer["outputs"][0]["data"]) == ([2, 3], [1, 2, 3, 4, 5, 6])


def test_an_answer_that_json_cannot_carry_is_an_error_and_says_whose(tmp_path: Path) -> None:
    from holdfast_serving.problems import Problem

    codec = Codec(models.logarithm(), tmp_path)
    for value, status in ((-1.0, 500), (0.0, 500), (None, 400), (1e300, 400)):
        with pytest.raises(Problem, match="'y' holds NaN or infinity") as caught:
            codec.ask(request(x=("FP32", [2, 1], [1.0, value])))
        assert caught.value.status == status


GOOD = {"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


def deep(levels: int) -> bytes:
    return b'{"inputs":' + b"[" * levels + b"]" * levels + b"}"


BAD_BODIES: list[tuple[str, bytes | dict[str, Any], str]] = [
    ("no body", b"", "not JSON"),
    ("not JSON", b"{", "not JSON"),
    ("not UTF-8", b'{"inputs":"\xff"}', "not JSON"),
    ("NaN", b'{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[NaN,1,1,1]}]}', "not JSON"),
    ("two documents", b"{}{}", "not JSON"),
    ("100,000 deep", deep(100_000), "not JSON"),
    ("900 deep", deep(900), 'an object with a "name"'),
    ("no object", b"[]", "must be a JSON object"),
    ("null", b"null", "must be a JSON object"),
    ("no inputs", {}, '"inputs" must be a list'),
    ("inputs is an object", {"inputs": GOOD}, '"inputs" must be a list'),
    ("no input", {"inputs": []}, "missing: 'X'"),
    ("a number as input", {"inputs": [1]}, 'an object with a "name"'),
    ("an input without name", {"inputs": [{}]}, 'an object with a "name"'),
    ("a name that is no text", {"inputs": [GOOD | {"name": {}}]}, 'an object with a "name"'),
    ("another input", {"inputs": [GOOD | {"name": "Y"}]}, "no input 'Y'; there are: 'X'"),
    ("a long name", {"inputs": [GOOD | {"name": "Y" * 10_000}]}, "no input 'YYYY"),
    ("an input twice", {"inputs": [GOOD, GOOD]}, "there twice"),
    ("another input beside", {"inputs": [GOOD, GOOD | {"name": "Y"}]}, "no input 'Y'"),
    ("no datatype", {"inputs": [{k: v for k, v in GOOD.items() if k != "datatype"}]}, "must have the datatype FP32"),
    ("another datatype", {"inputs": [GOOD | {"datatype": "FP64"}]}, "must have the datatype FP32"),
    ("a list as datatype", {"inputs": [GOOD | {"datatype": ["FP32"]}]}, "must have the datatype FP32"),
    ("no shape", {"inputs": [{k: v for k, v in GOOD.items() if k != "shape"}]}, "a list of integers"),
    ("a float in the shape", {"inputs": [GOOD | {"shape": [1.0, 4]}]}, "a list of integers"),
    ("a boolean in the shape", {"inputs": [GOOD | {"shape": [True, 4]}]}, "a list of integers"),
    ("too few dimensions", {"inputs": [GOOD | {"shape": [4]}]}, "2 dimensions, [-1, 4]"),
    ("too many dimensions", {"inputs": [GOOD | {"shape": [1, 1, 4]}]}, "2 dimensions"),
    ("columns that do not fit", {"inputs": [GOOD | {"shape": [1, 5]}]}, "fits [-1, 4]"),
    ("no rows", {"inputs": [GOOD | {"shape": [0, 4], "data": []}]}, "fits [-1, 4]"),
    ("negative rows", {"inputs": [GOOD | {"shape": [-1, 4]}]}, "fits [-1, 4]"),
    ("a huge shape", {"inputs": [GOOD | {"shape": [2**62, 4]}]}, f"asks for {2**64}"),
    ("too few elements", {"inputs": [GOOD | {"data": [1, 2, 3]}]}, "has 3 elements, its shape asks for 4"),
    ("too many elements", {"inputs": [GOOD | {"data": [1] * 5}]}, "has 5 elements"),
    ("no data", {"inputs": [{k: v for k, v in GOOD.items() if k != "data"}]}, "in a list, data"),
    ("a string as data", {"inputs": [GOOD | {"data": "1234"}]}, "in a list, data"),
    ("strings", {"inputs": [GOOD | {"data": ["1", "2", "3", "4"]}]}, "must have data of numbers"),
    ("nested otherwise", {"inputs": [GOOD | {"data": [[1, 2], [3, 4]]}]}, "nested data that does not fit"),
    ("half nested", {"inputs": [GOOD | {"data": [[1, 2, 3, 4], 5]}]}, "must have data of numbers"),
    ("nested too deep", {"inputs": [GOOD | {"data": [[[1, 2, 3, 4]]]}]}, "does not fit"),
    ("parameters that are none", {"inputs": [GOOD | {"parameters": []}]}, '"parameters" must be an object'),
    ("a list as parameter", {"inputs": [GOOD], "parameters": {"x": []}}, "a string, a number or a boolean"),
    ("binary input", {"inputs": [GOOD | {"parameters": {"binary_data_size": 16}}]}, "needs the header field"),
    ("a region", {"inputs": [GOOD | {"parameters": {"shared_memory_region": "r"}}]}, "does not have"),
    ("a switch that is none", {"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, "must be true or false"),
    ("an id that is a number", {"inputs": [GOOD], "id": 42}, '"id" must be a string'),
    ("outputs that are no list", {"inputs": [GOOD], "outputs": "label"}, '"outputs" must be a list'),
    ("an output that is no object", {"inputs": [GOOD], "outputs": ["label"]}, 'an object with a "name"'),
    ("another output", {"inputs": [GOOD], "outputs": [{"name": "x"}]}, "no output 'x'; there are: 'label', 'prob"),
    ("an output twice", {"inputs": [GOOD], "outputs": [{"name": "label"}] * 2}, "an output twice"),
    ("another switch", {"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, "true or"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), [case[1:] for case in BAD_BODIES], ids=[case[0] for case in BAD_BODIES])
def test_a_bad_request_is_told_what_is_wrong(iris: Server, body: Any, words: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(
        iris.url + iris.infer_path, content=content, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert len(answer.text) < 400
    for secret in ("/", "Traceback", "python"):
        assert secret not in answer.json()["error"]


def test_parameters_without_a_meaning_here_are_taken(iris: Server) -> None:
    body = {
        "parameters": {"priority": 1, "who": "me", "x": 0.5, "binary_data_output": False},
        "inputs": [GOOD | {"parameters": {"content_type": "np"}}],
        "outputs": [{"name": "label", "parameters": {"binary_data": False}}],
    }
    assert iris.infer(body).status_code == 200


def test_outcomes_are_counted(iris: Server) -> None:
    before, elsewhere = iris.outcomes(protocol="rest"), iris.outcomes(protocol="grpc")
    requests = iris.metric("holdfast_inference_duration_seconds_count")
    iris.ask(X=IRIS)
    iris.infer({})
    after = iris.outcomes(protocol="rest")
    assert {name: after[name] - before[name] for name in after} == {
        "ok": 1, "client_error": 1, "rejected": 0, "failed": 0, "abandoned": 0, "timeout": 0, "late": 0
    }  # fmt: skip
    assert iris.outcomes(protocol="grpc") == elsewhere
    assert iris.metric("holdfast_inference_duration_seconds_count") == requests + 1
    assert iris.metric("holdfast_inference_in_flight", model="wine", revision=REVISION) == 0
    assert iris.metric("holdfast_model_info", format="ONNX", batching="true") == 1
    assert 0 < iris.metric("holdfast_model_load_seconds") < 60
    assert iris.metric("holdfast_inference_duration_seconds_bucket", le="60") >= requests
    assert iris.metric("holdfast_inference_duration_seconds_bucket", le="0.001") <= requests + 1


@pytest.mark.parametrize("options", [{}, {"id": "7"}])
def test_an_answer_names_the_revision_that_gave_it(options: dict[str, str]) -> None:
    tensor = Tensor("x", "FP32", (-1,))
    codec = RestCodec(Signature((tensor,), (tensor,)), "wine", REVISION)
    for revision, said in ((None, REVISION), ("0000000001", "0000000001"), ("0000000002", "0000000002")):
        call = codec.decode(json.dumps(request(x=("FP32", [1], [2])) | options).encode(), _Client())
        outputs = Outputs([np.array([2], np.float32)], True, revision)
        assert json.loads(codec.encode(call, outputs, 0, 1)[0])["model_version"] == said


class _Client:
    transport = None

    def respond(self, status: int, body: bytes, fields: bytes = b"") -> None: ...

    def respond_problem(self, problem: Problem) -> None: ...
