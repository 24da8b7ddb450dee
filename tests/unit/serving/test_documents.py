"""The OpenAPI document and the page for people."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.serving import models
from tests.unit.serving.server import REVISION, Server, claim, serving, until, write_bundle

from holdfast_serving.api import Api
from holdfast_serving.metrics import Metrics
from holdfast_serving.served import Served

GOLDEN = {"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a bundle, which has golden requests."""
    folder = tmp_path_factory.mktemp("iris")
    golden = {"requests": [{"inputs": [GOLDEN], "outputs": []}], "tolerance": {"relative": 0, "absolute": 0}}
    digest = write_bundle(claim(folder) / "iris", models.iris(), golden)
    with Server(folder, "pvc://models/iris", digest) as server:
        until(server.ready, "readiness")
        yield server


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("colours"), models.colours()) as server:
        yield server


def openapi(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = server.get("/openapi.json").json()
    return document


def test_the_document_has_every_path_and_method_that_is_served(iris: Server) -> None:
    routes = Api(Served("wine", REVISION, Metrics("wine", REVISION), 10)).routes
    served = {
        (path, method.lower())
        for path, methods in routes.paths.items()
        for method in methods
        if not path.endswith("/feedback")  # which is off here
    }
    document = openapi(iris)
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == served
    assert (document["openapi"], document["info"]["version"]) == ("3.1.1", REVISION)
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    schemas = document["components"]["schemas"]
    for reference in re.findall(r"#/components/schemas/(\w+)", json.dumps(document)):
        assert reference in schemas


def test_the_document_s_example_is_answered_and_comes_from_the_bundle(iris: Server, colours: Server) -> None:
    for server in (iris, colours):
        operation = openapi(server)["paths"][server.infer_path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert server.infer(example).status_code == 200
        if server is iris:
            assert example == {"inputs": [GOLDEN]}


def test_a_document_is_compressed_for_who_asks(iris: Server) -> None:
    for path, kind in (("/openapi.json", "application/json"), ("/", "text/html; charset=utf-8")):
        plain = httpx.get(iris.url + path, headers={"accept-encoding": "identity"}, timeout=60)
        assert plain.headers["content-type"] == kind
        assert "content-encoding" not in plain.headers
        for coding in ("gzip", "deflate"):
            packed = httpx.get(iris.url + path, headers={"accept-encoding": coding}, timeout=60)
            assert (packed.headers["content-encoding"], packed.text) == (coding, plain.text)
            assert int(packed.headers["content-length"]) < len(plain.content) / 2
            assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


def test_the_page_shows_the_signature_and_a_request_that_is_answered(iris: Server, colours: Server) -> None:
    for server, names in ((iris, ("X", "label", "probabilities")), (colours, ("colour", "size", "label"))):
        page = server.get("/").text
        for name in names:
            assert f"<code>{name}</code>" in page
        assert REVISION in page
        example = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)
        path = re.search(r'data-path="(.*?)"', page)
        assert example
        assert path
        answer = httpx.post(f"{server.url}/{path[1]}", content=html.unescape(example[1]), timeout=60)
        assert answer.status_code == 200, answer.text


def test_the_page_needs_nothing_and_allows_nothing_from_elsewhere(iris: Server) -> None:
    answer = iris.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for element in ("script", "style"):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"(src|href|action)=.?(https?:)?//", answer.text)
    assert " style=" not in answer.text
    assert not re.search(r" on\w+=", answer.text)
    assert "@@" not in answer.text


def test_names_of_a_model_are_text_on_its_page(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>&\"'@@NAME@@"
    made = models.build(
        [models.node("Identity", "x", "y")], {"x": (models.STRING, [None, 1])}, {"y": (models.STRING, [None, 1])}
    )
    with serving(tmp_path, renamed(made, name)) as server:
        page = server.get("/").text
        assert page.count("<script>") == 1
        assert f"<code>{html.escape(name)}</code>" in page
        document = openapi(server)
        assert document["components"]["schemas"]["Input1"]["properties"]["name"] == {"const": name}


def renamed(content: bytes, name: str) -> bytes:
    """The model with another name for its input x."""
    import onnx

    made = onnx.load_from_string(content)
    made.graph.input[0].name = made.graph.node[0].input[0] = name
    changed: bytes = made.SerializeToString()
    return changed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (models.echo("FP16", None), "send it as binary tensors"),
        (models.echo("FP32", None, 3, 224, 224), "send it as binary tensors"),
    ],
    ids=["half floats", "an image"],
)
def test_what_nobody_can_type_has_no_example(tmp_path: Path, content: bytes, words: str) -> None:
    with serving(tmp_path, content) as server:
        assert words in server.get("/").text
        assert "example" not in json.dumps(openapi(server))


def test_before_the_model_is_there_the_documents_are_not() -> None:
    from holdfast_serving import openapi as module
    from holdfast_serving import page
    from holdfast_serving.problems import Problem

    served = Served("wine", REVISION, Metrics("wine", REVISION), 10)
    with pytest.raises(Problem, match="still being loaded"):
        page.render(served, None)
    with pytest.raises(Problem, match="still being loaded"):
        module.document({}, served, None)
