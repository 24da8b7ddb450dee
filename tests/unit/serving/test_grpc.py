"""The Open Inference Protocol over gRPC as a client sees it, whatever carries it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from tests.unit.serving import models
from tests.unit.serving.grpc_client import Client, client, outputs, request
from tests.unit.serving.http2_client import PREFACE, frame, header, message
from tests.unit.serving.server import REVISION, Server, serving, until

from holdfast_serving import settings
from holdfast_serving.grpc import messages

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)
IRIS = ("FP32", [3, 4], ROWS.ravel().tolist())
ONE = ("FP32", [1, 4], ROWS[0].tolist())


@pytest.fixture(scope="module", params=["holdfast", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("iris")
    with serving(folder, models.iris(), HOLDFAST_GRPC_TRANSPORT=transport) as server:
        yield server


@pytest.fixture(scope="module")
def iris(server: Server) -> Iterator[Client]:
    with client(server) as made:
        yield made


@pytest.fixture(scope="module")
def colours(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("colours")
    with serving(folder, models.colours(), HOLDFAST_GRPC_TRANSPORT=transport) as server, client(server) as made:
        yield made


def refusal(client: Client, method: str = "ModelInfer", **fields: Any) -> tuple[str, str]:
    """(code, words) of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        client.call(method, **fields)
    return caught.value.code().name, caught.value.details()


def right(given: dict[str, Any], rows: Any = ROWS) -> None:
    label, probabilities = onnxruntime.InferenceSession(models.iris()).run(None, {"X": rows})
    assert list(given) == ["label", "probabilities"]
    assert (given["label"].tolist(), given["probabilities"].shape) == (label.tolist(), (len(rows), 3))
    np.testing.assert_allclose(given["probabilities"], probabilities, 1e-6)


def test_a_healthy_server_is_live_and_ready(iris: Client) -> None:
    assert iris.call("ServerLive").live is True
    assert iris.call("ServerReady").ready is True
    for version in ("", REVISION):
        assert iris.call("ModelReady", name="wine", version=version).ready is True


def test_metadata_describes_server_and_model(iris: Client) -> None:
    described = iris.call("ServerMetadata")
    assert (described.name, described.version) == ("holdfast-serving", "0.1.0")
    assert "model_repository" in described.extensions
    model = iris.call("ModelMetadata", name="wine")
    assert (model.name, list(model.versions), model.platform) == ("wine", [REVISION], "onnx_onnxv1")
    assert [(x.name, x.datatype, list(x.shape)) for x in model.inputs] == [("X", "FP32", [-1, 4])]
    assert [(y.name, y.datatype, list(y.shape)) for y in model.outputs] == [
        ("label", "INT64", [-1]),
        ("probabilities", "FP32", [-1, 3]),
    ]


def test_configuration_and_statistics_are_those_of_rest(server: Server, iris: Client) -> None:
    config = iris.call("ModelConfig", name="wine").config
    assert (config.name, config.backend, config.WhichOneof("scheduling_choice")) == (
        "wine", "onnxruntime", "dynamic_batching"
    )  # fmt: skip
    assert config.max_batch_size == server.get("/v2/models/wine/config").json()["max_batch_size"] > 1
    assert [(x.name, x.data_type, list(x.dims)) for x in config.input] == [("X", 11, [4])]
    iris.infer(X=ONE)
    (before,) = iris.call("ModelStatistics", name="wine", version=REVISION).model_stats
    iris.infer(X=IRIS)
    (after,) = iris.call("ModelStatistics").model_stats
    assert (after.name, after.version) == ("wine", REVISION)
    assert after.inference_count == before.inference_count + 3
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    for method in ("ModelConfig", "ModelStatistics"):
        assert refusal(iris, method, name="beer") == ("NOT_FOUND", "no model 'beer' here")


def test_the_repository_has_one_model_and_nobody_changes_it(iris: Client) -> None:
    (entry,) = iris.call("RepositoryIndex", ready=True).models
    assert (entry.name, entry.version, entry.state, entry.reason) == ("wine", REVISION, "READY", "")
    for change in ("RepositoryModelLoad", "RepositoryModelUnload"):
        code, words = refusal(iris, change, model_name="wine")
        assert (code, "serves what its Deployment says" in words) == ("FAILED_PRECONDITION", True)


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
@pytest.mark.parametrize("version", ["", REVISION])
def test_an_answer_is_what_the_runtime_says_and_comes_as_the_request_came(
    iris: Client, raw: bool, version: str
) -> None:
    response = iris.call("ModelInfer", **request(raw, X=IRIS, id="é 42", model_version=version))
    assert (response.model_name, response.model_version, response.id) == ("wine", REVISION, "é 42")
    assert len(response.raw_output_contents) == (2 if raw else 0)
    right(outputs(response))
    one = iris.call("ModelInfer", **request(raw, X=ONE))
    assert one.id == ""
    right(outputs(one), ROWS[:1])


def test_only_the_wanted_outputs_come_in_the_wanted_order(iris: Client) -> None:
    both = iris.infer(X=ONE)
    for raw in (False, True):
        for wanted in (["label"], ["probabilities"], ["probabilities", "label"]):
            given = iris.infer(raw=raw, X=ONE, outputs=[{"name": name} for name in wanted])
            assert list(given) == wanted
            assert all(np.array_equal(given[name], both[name]) for name in wanted)


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
def test_strings_and_numbers_of_several_inputs_come_in_any_order(colours: Client, raw: bool) -> None:
    texts = ("BYTES", [4, 1], ["red", "blue", "no such", "green"])
    sizes = ("FP32", [4, 1], [5.0, 0.0, 6.0, float("nan")])
    labels = colours.infer(raw=raw, colour=texts, size=sizes)["label"].tolist()
    # The third colour is unknown to the encoder; the fourth size is missing, for which the median (3) stands.
    assert (labels[0], labels[1], labels[3]) == ("red, big", "blue, small", "green, small")
    assert colours.infer(raw=raw, size=sizes, colour=texts)["label"].tolist() == labels


def test_requests_in_one_run_get_their_own_rows(iris: Client) -> None:
    call = iris.unary("ModelInfer")
    for _ in range(5):
        futures = [
            call.future(iris.request("ModelInfer", **request(raw, X=("FP32", [1, 4], row.tolist()), id=str(index))))
            for index, (row, raw) in enumerate(zip(np.tile(ROWS, (10, 1)), [True, False, False] * 10, strict=True))
        ]
        for index, future in enumerate(futures):
            assert future.result(30).id == str(index)
            right(outputs(future.result()), ROWS[index % 3][None])


def test_a_stream_is_answered_in_order_and_goes_on_behind_an_error(iris: Client) -> None:
    requests = [request(X=ONE, id=str(number)) for number in range(100)]
    requests[7]["model_name"] = "beer"
    answers = list(iris.stream(requests))
    assert len(answers) == len(requests)
    assert answers[7].error_message == "no model 'beer' here"
    for number, answer in enumerate(answers):
        if number != 7:
            assert (answer.error_message, answer.infer_response.id) == ("", str(number))
            right(outputs(answer.infer_response), ROWS[:1])
    assert list(iris.stream([])) == []


GOOD = request(X=ONE)
INPUT = GOOD["inputs"][0]


def changed(**fields: Any) -> dict[str, Any]:
    """The good request with another input."""
    return {**GOOD, "inputs": [{**INPUT, **fields}]}


BAD_REQUESTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("nothing", {}, "NOT_FOUND", "no model '' here"),
    ("another model", {**GOOD, "model_name": "beer"}, "NOT_FOUND", "no model 'beer' here"),
    ("another version", {**GOOD, "model_version": "1"}, "NOT_FOUND", "model 'wine' has no version '1' here"),
    ("no inputs", {"model_name": "wine"}, "INVALID_ARGUMENT", "missing: 'X'"),
    ("another input", changed(name="Y"), "INVALID_ARGUMENT", "no input 'Y'; there are: 'X'"),
    ("a long name", changed(name="Y" * 10_000), "INVALID_ARGUMENT", "no input 'YYYY"),
    ("an input twice", {**GOOD, "inputs": [INPUT] * 2}, "INVALID_ARGUMENT", "there twice"),
    ("no datatype", changed(datatype=""), "INVALID_ARGUMENT", "must have the datatype FP32"),
    ("another datatype", changed(datatype="FP64"), "INVALID_ARGUMENT", "must have the datatype FP32"),
    ("no shape", changed(shape=[]), "INVALID_ARGUMENT", "2 dimensions"),
    ("too many dimensions", changed(shape=[1, 1, 4]), "INVALID_ARGUMENT", "2 dimensions"),
    ("columns that do not fit", changed(shape=[1, 5]), "INVALID_ARGUMENT", "fits [-1, 4]"),
    ("no rows", changed(shape=[0, 4]), "INVALID_ARGUMENT", "fits [-1, 4]"),
    ("negative rows", changed(shape=[-1, 4]), "INVALID_ARGUMENT", "fits [-1, 4]"),
    ("a huge shape", changed(shape=[2**62, 4]), "INVALID_ARGUMENT", f"asks for {2**64}"),
    ("too few elements", changed(contents={"fp32_contents": [1, 2]}), "INVALID_ARGUMENT", "has 2 elements"),
    ("no contents", changed(contents={}), "INVALID_ARGUMENT", "has 0 elements, its shape asks for 4"),
    ("other contents", changed(contents={"fp64_contents": [1] * 4}), "INVALID_ARGUMENT", "elements in fp32_contents"),
    (
        "two contents",
        changed(contents={"fp32_contents": [1] * 4, "int_contents": [1]}),
        "INVALID_ARGUMENT",
        "elements in fp32_contents",
    ),
    ("contents and raw", {**GOOD, "raw_input_contents": [bytes(16)]}, "INVALID_ARGUMENT", "one or the other"),
    ("too many raw", {**GOOD, "raw_input_contents": [b""] * 2}, "INVALID_ARGUMENT", "1 inputs and 2 raw_input"),
    (
        "a byte too few",
        {**changed(contents=None), "raw_input_contents": [bytes(15)]},
        "INVALID_ARGUMENT",
        "has 15 bytes, its shape asks for 16",
    ),
    ("another output", {**GOOD, "outputs": [{"name": "x"}]}, "INVALID_ARGUMENT", "no output 'x'; there are: 'label'"),
    ("an output twice", {**GOOD, "outputs": [{"name": "label"}] * 2}, "INVALID_ARGUMENT", "an output twice"),
    (
        "a classification",
        {**GOOD, "outputs": [{"name": "label", "parameters": {"classification": {"int64_param": 3}}}]},
        "INVALID_ARGUMENT",
        "there are no classes to choose from",
    ),
    (
        "shared memory",
        changed(parameters={"shared_memory_region": {"string_param": "x"}}),
        "INVALID_ARGUMENT",
        "an extension that this server does not have",
    ),
    ("a parameter without value", {**GOOD, "parameters": {"x": {}}}, "INVALID_ARGUMENT", "a string, a number or"),
]


@pytest.mark.parametrize(
    ("fields", "code", "words"), [case[1:] for case in BAD_REQUESTS], ids=[case[0] for case in BAD_REQUESTS]
)
def test_a_bad_request_is_told_what_is_wrong(iris: Client, fields: dict[str, Any], code: str, words: str) -> None:
    given, details = refusal(iris, **fields)
    assert given == code, details
    assert words in details
    assert len(details) < 300


def test_parameters_without_a_meaning_here_are_taken(iris: Client) -> None:
    fields = request(X=ONE, parameters={"priority": {"int64_param": 1}, "who": {"string_param": "me"}})
    right(outputs(iris.call("ModelInfer", **fields)), ROWS[:1])


def test_a_message_that_is_none_and_a_method_that_is_not_there_are_refused(iris: Client) -> None:
    for method, code in (
        ("ModelInfer", "INVALID_ARGUMENT"),
        ("ModelReady", "INVALID_ARGUMENT"),
        ("X", "UNIMPLEMENTED"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            iris.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff\xff", timeout=60)
        assert caught.value.code().name == code


def test_outcomes_are_counted(server: Server, iris: Client) -> None:
    name, mine = "holdfast_inference_duration_seconds_count", {"protocol": "grpc"}
    before, elsewhere = server.outcomes(**mine), server.outcomes(protocol="rest")
    answered = server.metric(name, **mine)
    iris.infer(X=ONE)
    refusal(iris, model_name="beer")
    after = server.outcomes(**mine)
    assert server.outcomes(protocol="rest") == elsewhere
    assert (after["ok"] - before["ok"], after["client_error"] - before["client_error"]) == (1, 1)
    assert server.metric(name, **mine) == answered + 1
    assert server.metric("holdfast_inference_in_flight") == 0


def test_eight_mebibytes_go_in_and_come_out(transport: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(2048, 1024)).astype(np.float32)
    with (
        serving(tmp_path, models.echo("FP32", None, 1024), HOLDFAST_GRPC_TRANSPORT=transport) as server,
        client(server) as made,
    ):
        for raw in (True, False):
            given = made.infer(raw=raw, x=("FP32", list(rows.shape), rows if raw else rows.ravel().tolist()))
            assert np.array_equal(given["y"], rows)
        code, _ = refusal(made, model_name="x" * (17 << 20))
        assert code == "RESOURCE_EXHAUSTED"
        requests = [request(True, x=("FP32", list(rows.shape), rows), id=str(number)) for number in range(8)]
        answers = [(answer.infer_response.id, outputs(answer.infer_response)["y"]) for answer in made.stream(requests)]
        assert [number for number, _ in answers] == [str(number) for number in range(8)]
        assert all(np.array_equal(array, rows) for _, array in answers)


def test_the_health_service_tells_and_lists_and_is_watched_until_the_end(transport: str, tmp_path: Path) -> None:
    health = "grpc.health.v1.Health"
    with (
        serving(tmp_path, models.iris(), "--drain-seconds", "2", HOLDFAST_GRPC_TRANSPORT=transport) as server,
        client(server) as made,
    ):
        for name in ("", "inference.GRPCInferenceService"):
            assert made.call("Check", health, service=name).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            made.call("Check", health, service="x")
        assert caught.value.code().name == "NOT_FOUND"
        listed = made.call("List", health).statuses
        assert {name: listed[name].status for name in listed} == {"": 1, "inference.GRPCInferenceService": 1}
        response = messages.message("grpc.health.v1.HealthCheckResponse")
        watch = made.channel.unary_stream(f"/{health}/Watch", None, response.FromString)
        seen, unknown = watch(b"", timeout=60), watch(b"\x0a\x01x", timeout=60)
        assert (next(seen).status, next(unknown).status) == (1, 3)
        server.terminate()
        assert next(seen).status == 2
        seen.cancel()
        unknown.cancel()
        assert server.wait() == 0, server.log


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_gives_every_file(iris: Client, version: str) -> None:
    package = f"grpc.reflection.{version}"
    ask, answer = (messages.message(f"{package}.ServerReflection{kind}") for kind in ("Request", "Response"))
    questions = [
        ask(list_services=""),
        ask(file_by_filename="inference.proto"),
        ask(file_containing_symbol="inference.GRPCInferenceService.ModelInfer"),
        ask(file_containing_symbol="grpc.health.v1.HealthCheckResponse"),
        ask(file_containing_symbol="no.such"),
        ask(file_by_filename="no.proto"),
        ask(all_extension_numbers_of_type="inference.ModelInferRequest"),
    ]
    path = f"/{package}.ServerReflection/ServerReflectionInfo"
    method = iris.channel.stream_stream(path, lambda m: m.SerializeToString(), answer.FromString)
    answers = list(method(iter(questions), timeout=60))
    assert [given.original_request for given in answers] == questions
    assert {service.name for service in answers[0].list_services_response.service} == set(messages.SERVICES)
    files = [list(given.file_descriptor_response.file_descriptor_proto) for given in answers[1:4]]
    assert files == [
        [messages.FILES[name]] for name in ("inference.proto", "inference.proto", "grpc/health/v1/health.proto")
    ]
    assert [given.error_response.error_code for given in answers[4:]] == [5, 5, 5]


class Caller(threading.Thread):
    """Calls without a pause until it hears that the pod is going."""

    def __init__(self, server: Server, heard: threading.Event) -> None:
        super().__init__()
        self.server = server
        self.heard = heard
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        with client(self.server) as made:
            call, message = made.unary("ModelInfer"), made.request("ModelInfer", **request(X=ONE))
            while not self.heard.is_set():
                try:
                    right(outputs(call(message, timeout=60)), ROWS[:1])
                except grpc.RpcError as error:
                    self.lost.append(f"{error.code()} {error.details()}")
                    return
                self.answered += 1


def test_under_load_no_call_is_lost_in_a_drain(transport: str, tmp_path: Path) -> None:
    arguments = ("--drain-seconds", "3")
    with serving(tmp_path, models.iris(), *arguments, HOLDFAST_GRPC_TRANSPORT=transport) as server:
        heard = threading.Event()
        callers = [Caller(server, heard) for _ in range(6)]
        for caller in callers:
            caller.start()
        until(lambda: all(caller.answered > 20 for caller in callers), "load")
        server.terminate()
        until(lambda: server.get("/v2/health/ready").status_code == 503, "not ready")
        before = [caller.answered for caller in callers]
        until(lambda: all(c.answered > n + 20 for c, n in zip(callers, before, strict=True)), "answers while draining")
        heard.set()  # as endpoints are removed, some time after SIGTERM
        for caller in callers:
            caller.join()
        assert [caller.lost for caller in callers] == [[]] * 6
        assert server.wait(60) == 0, server.log


def test_all_answers_of_a_run_are_one_write(tmp_path: Path) -> None:
    call = message(messages.inference("ModelInferRequest")(**request(X=ONE)).SerializeToString())
    head = header(**{":path": b"/inference.GRPCInferenceService/ModelInfer"})
    with serving(tmp_path, models.iris()) as server:
        with socket.create_connection(("127.0.0.1", server.grpc_port)) as sock:
            sock.sendall(PREFACE)
            numbers = iter(range(1, 10_000, 2))
            reads = []
            for _ in range(20):
                calls = [frame(1, 4, number, head) + frame(0, 1, number, call) for number in islice(numbers, 32)]
                sock.sendall(b"".join(calls))
                answered = 0
                while answered < 32:
                    reads.append(sock.recv(1 << 20).count(b"grpc-status"))
                    answered += reads[-1]
        assert server.outcomes()["ok"] == 20 * 32
        assert max(reads) == 32
        assert len(reads) < 100  # a run may be divided where the machine is busy


def test_a_call_that_takes_too_long_ends_at_its_deadline(transport: str, tmp_path: Path) -> None:
    rows = np.ones((700, 1024), np.float32)
    with (
        serving(tmp_path, models.heavy(), "--drain-seconds", "0", HOLDFAST_GRPC_TRANSPORT=transport) as server,
        client(server) as made,
    ):
        fields = request(True, x=("FP32", [700, 1024], rows))
        with pytest.raises(grpc.RpcError) as caught:
            made.call("ModelInfer", seconds=0.05, **fields)
        assert caught.value.code().name in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
        assert made.call("ServerLive").live
        until(lambda: server.metric("holdfast_inference_in_flight") == 0, "the end of the run")
        assert server.outcomes(protocol="grpc")["ok"] == 0  # what comes after its time is not as it should be


def test_a_transport_that_is_not_there_or_not_secure_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        **{f"HOLDFAST_{name}": "x" for name in ("MODEL_URI", "MODEL_NAME", "MODEL_DIGEST", "REVISION")},
        "HOLDFAST_GRPC_TRANSPORT": "grpcio",
    }
    assert settings.read(["serve"], given)[1].grpcio is True
    with pytest.raises(settings.SettingsError, match="cannot do TLS"):
        settings.read(["serve"], {**given, "HOLDFAST_TLS_SECRET": "wine-tls"})
    with pytest.raises(settings.SettingsError, match="neither holdfast nor grpcio"):
        settings.read(["serve"], {**given, "HOLDFAST_GRPC_TRANSPORT": "http3"})
    monkeypatch.setattr(settings, "find_spec", lambda name: None)  # as in the image
    with pytest.raises(settings.SettingsError, match=r"pip install 'holdfast-serving\[grpcio\]'"):
        settings.read(["serve"], given)
