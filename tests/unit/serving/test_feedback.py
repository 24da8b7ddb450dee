"""Receipts tell what a model said; feedback tells what was true, to any replica, and counts once."""

from __future__ import annotations

import json
import os
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tests.unit.serving import leases, models
from tests.unit.serving.authority import CLIENT, Authority, Secret, trust
from tests.unit.serving.grpc_client import client as grpc_client
from tests.unit.serving.grpc_client import request as grpc_request
from tests.unit.serving.server import (
    REVISION,
    Process,
    Server,
    claim,
    digest_of,
    request,
    serving,
    until,
    write_bundle,
)

from holdfast_bundle.errors import BundleError
from holdfast_bundle.manifest import Tensor
from holdfast_serving import feedback, receipts
from holdfast_serving.errors import Errors
from holdfast_serving.feedback import Feedback
from holdfast_serving.problems import Problem
from holdfast_serving.profile import Ranges
from holdfast_serving.receipts import Keys, ReceiptError, Receipts

KEY = "0123456789abcdef" * 4
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]]
SAID = [0, 2, 1]


def keys(folder: Path, *lines: str) -> Keys:
    place = folder / "wine-feedback"
    place.mkdir(parents=True, exist_ok=True)
    (place / "key").write_text("\n".join(lines or (KEY,)))
    return Keys(place)


def given(folder: Path, model: str = "wine", *lines: str) -> Receipts:
    return Receipts(keys(folder, *lines), model)


def payload(receipt: str) -> dict[str, Any]:
    text = receipt.partition(".")[0]
    read: dict[str, Any] = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return read


# --- Receipts -------------------------------------------------------------------------------------------------------


def test_a_receipt_says_what_was_said(tmp_path: Path) -> None:
    made = given(tmp_path)
    said = [0, "yes", True, 1.5, None]
    receipt = made.read(made.issue("r1", said))
    assert (receipt.revision, receipt.said) == ("r1", said)
    assert made.read(made.issue("r1", said)).nonce != receipt.nonce


def test_every_changed_character_is_noticed(tmp_path: Path) -> None:
    made = given(tmp_path)
    whole = made.issue("r1", [1])
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \né"
    for place in range(len(whole)):
        for other in alphabet:
            if other != whole[place]:
                with pytest.raises(ReceiptError, match="forged"):
                    made.read(whole[:place] + other + whole[place + 1 :])
    for wrong in ("", ".", whole[:-1], whole + "A", whole.partition(".")[0], "." + whole, whole * 2):
        with pytest.raises(ReceiptError, match="forged"):
            made.read(wrong)


def test_a_receipt_is_good_for_its_model_and_key_alone(tmp_path: Path) -> None:
    receipt = given(tmp_path / "a").issue("r1", [1])
    for other in (given(tmp_path / "b", "beer"), given(tmp_path / "c", "wine", KEY[::-1])):
        with pytest.raises(ReceiptError, match="forged"):
            other.read(receipt)
    text, _, seal = receipt.partition(".")
    better = json.dumps(payload(receipt) | {"said": [2]}).encode()
    with pytest.raises(ReceiptError, match="forged"):
        given(tmp_path / "a").read(f"{urlsafe_b64encode(better).rstrip(b'=').decode()}.{seal}")
    assert text


def test_keys_can_be_changed_without_losing_receipts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "_LOOK_SECONDS", -1)
    new, other = "n" * 32, "x" * 32
    running = given(tmp_path)
    old_receipt = running.issue("r1", [1])
    given(tmp_path, "wine", new, KEY)  # the Secret changes
    new_receipt = running.issue("r1", [2])
    assert [running.read(each).said for each in (old_receipt, new_receipt)] == [[1], [2]]
    assert given(tmp_path / "elsewhere", "wine", new).read(new_receipt).said == [2]
    (tmp_path / "wine-feedback" / "key").write_text("short")
    assert running.read(new_receipt).said == [2]  # what is no good is not taken over
    given(tmp_path, "wine", other)
    with pytest.raises(ReceiptError, match="forged"):
        running.read(new_receipt)


@pytest.mark.parametrize("content", ["", "\n\n", "k" * 31, f"{KEY}\nshort"])
def test_a_key_that_can_be_guessed_is_none(tmp_path: Path, content: str) -> None:
    with pytest.raises(BundleError, match="must hold lines of at least 32 characters") as caught:
        keys(tmp_path, content)
    assert caught.value.reason == "SecretInvalid"
    assert content == "" or content not in caught.value.message


def test_an_old_receipt_has_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = given(tmp_path)
    receipt = made.issue("r1", [1])
    monkeypatch.setattr(receipts, "MAX_AGE_SECONDS", -5)
    with pytest.raises(ReceiptError, match="expired"):
        made.read(receipt)


# --- Feedback -------------------------------------------------------------------------------------------------------


def taking(folder: Path, rows_per_minute: int = 10_000) -> Feedback:
    return Feedback(given(folder), "wine", "r1", rows_per_minute, certified=False)


def counts(made: Feedback) -> dict[str, float]:
    """Of what has been counted, by name and labels beside the model's; zeros are left out."""
    return {
        "/".join([sample.name.removeprefix("holdfast_feedback_"), *list(sample.labels.values())[1:]]): sample.value
        for family in made.collect()
        for sample in family.samples
        if sample.value
    }


def told(made: Feedback, *items: tuple[str, list[Any]]) -> tuple[int, list[str]]:
    rows, refused, _ = made.take({"feedback": [{"receipt": text, "labels": labels} for text, labels in items]})
    return rows, [each["reason"] for each in refused]


def test_labels_are_counted_for_the_revision_that_was_right_or_wrong(tmp_path: Path) -> None:
    made = taking(tmp_path)
    one, two = made.receipts.issue("r1", [0, 1, 1]), made.receipts.issue("r0", ["a"])
    assert told(made, (one, [0, 2, None]), (two, ["a"])) == (3, [])
    assert counts(made) == {"rows_total/r1/correct": 1, "rows_total/r1/wrong": 1, "rows_total/r0/correct": 1}


def test_errors_of_numbers_are_summed(tmp_path: Path) -> None:
    made = taking(tmp_path)
    said = [1.5, -2.0, float("nan"), 4.0]
    assert told(made, (made.receipts.issue("r1", said), [1, 0.5, 3.0, None])) == (2, [])
    assert counts(made) == {"values_total/r1": 2, "absolute_error_total/r1": 3.0}


def test_errors_of_numbers_are_counted_by_bin_for_the_revision_whose_bins_they_are(tmp_path: Path) -> None:
    made = taking(tmp_path)
    made.errors = Errors(Ranges((0.5, 2.0), (0.5, 0.5, 0.0), 0.0))
    said = [1.0, 1.0, 1.0, 1.0, 1.0]
    assert told(made, (made.receipts.issue("r1", said), [1.5, 1.75, -1.5, 1e299, None])) == (4, [])
    assert told(made, (made.receipts.issue("r0", said), [9.0] * 5)) == (5, [])
    assert told(made, (made.receipts.issue("r1", [1, "a"]), [2, "b"])) == (2, [])
    assert made.errors.counts() == [1, 1, 2, 0]


def test_a_receipt_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = taking(tmp_path)
    receipt = made.receipts.issue("r1", [1])
    assert told(made, (receipt, [1]), (receipt, [0])) == (1, ["repeated"])
    assert told(made, (receipt, [1])) == (0, ["repeated"])
    assert counts(made) == {"rows_total/r1/correct": 1, "refused_total/r1/repeated": 2}
    monkeypatch.setattr(feedback, "REMEMBERED", 10)
    for _ in range(50):
        told(made, (made.receipts.issue("r1", [1]), [1]))
    assert len(made._seen) == len(made._order) <= 11


@pytest.mark.parametrize(
    ("said", "labels"),
    [([1], []), ([1], [1, 1]), ([1], ["1"]), ([1], [1.0]), ([1], [True]), ([True], [1]), (["a"], [1]), ([1.0], ["1"]),
     ([1.0], [True]), ([1.0], [1e301]), ([1.0], [[1.0]]), ([1], [{}])],
)  # fmt: skip
def test_labels_that_cannot_be_compared_are_refused_and_can_be_mended(
    tmp_path: Path, said: list[Any], labels: list[Any]
) -> None:
    made = taking(tmp_path)
    receipt = made.receipts.issue("r1", said)
    assert told(made, (receipt, labels)) == (0, ["unfit"])
    assert told(made, (receipt, said)) == (1, [])


def test_a_minute_takes_so_many_labels_and_the_next_one_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = taking(tmp_path, rows_per_minute=5)
    items = [(made.receipts.issue("r1", [1, 1]), [1, 1]) for _ in range(4)]
    assert told(made, *items) == (4, ["capped", "capped"])
    _, _, wait = made.take({"feedback": [{"receipt": items[2][0], "labels": [1, 1]}]})
    assert 0 < wait <= 60
    assert counts(made) == {"rows_total/r1/correct": 4, "refused_total/r1/capped": 3}
    made._window_ends -= 60
    assert told(made, *items[2:]) == (4, [])


def test_revisions_that_are_remembered_are_bounded(tmp_path: Path) -> None:
    made = taking(tmp_path)
    for number in range(100):
        told(made, (made.receipts.issue(f"old{number}", [1]), [1]))
    names = {name.split("/")[1] for name in counts(made)}
    assert len(made._revisions) == feedback._MOST_REVISIONS
    assert "r1" in made._revisions
    assert "old99" in names


@pytest.mark.parametrize(
    "document",
    [[], {}, {"feedback": {}}, {"feedback": []}, {"feedback": [1]}, {"feedback": [{"receipt": 1, "labels": []}]},
     {"feedback": [{"receipt": "x"}]}, {"feedback": [{"receipt": "x", "labels": [1] * 1001}]},
     {"feedback": [{"receipt": "x", "labels": []}] * 257}],
)  # fmt: skip
def test_a_request_of_another_form_is_refused_as_a_whole(tmp_path: Path, document: Any) -> None:
    with pytest.raises(Problem, match="feedback"):
        taking(tmp_path).take(document)


# --- In servers -----------------------------------------------------------------------------------------------------


@contextmanager
def replica(folder: Path, revision: str = REVISION, content: bytes | None = None, **more: str) -> Iterator[Server]:
    """A ready server with a key; others below the same folder have the same one."""
    keys(folder / "feedback")
    own = folder / revision
    own.mkdir()
    content = content or models.iris()
    (claim(own) / "model.onnx").write_bytes(content)
    more = {"HOLDFAST_FEEDBACK_SECRET": "wine-feedback", "HOLDFAST_REVISION": revision} | more
    arguments = ("--feedback", str(folder / "feedback"))
    with Server(own, "pvc://models/model.onnx", digest_of(content), *arguments, **more) as server:
        until(server.ready, "readiness")
        yield server


def iris_request(**parameters: Any) -> dict[str, Any]:
    return request(X=("FP32", [3, 4], [each for row in ROWS for each in row])) | {"parameters": parameters}


def tell(server: Server, *items: tuple[str, list[Any]]) -> httpx.Response:
    body = {"feedback": [{"receipt": text, "labels": labels} for text, labels in items]}
    return httpx.post(f"{server.url}/v2/models/wine/feedback", json=body, timeout=60)


def test_what_one_replica_said_can_be_told_to_another_of_another_revision(tmp_path: Path) -> None:
    with replica(tmp_path, "aaaaaaaaaa") as old, replica(tmp_path, "bbbbbbbbbb") as new:
        answer = old.infer(iris_request(receipt=True) | {"id": "7"}).json()
        assert (answer["id"], answer["outputs"][0]["data"]) == ("7", SAID)
        receipt = answer["parameters"]["receipt"]
        assert (payload(receipt)["revision"], payload(receipt)["said"]) == ("aaaaaaaaaa", SAID)
        assert "parameters" not in old.infer(iris_request(receipt=False)).json()

        raw = httpx.post(
            old.url + old.infer_path,
            content=np.array(ROWS[0], np.float32).tobytes(),
            headers={"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"},
            timeout=60,
        )
        assert raw.status_code == 200
        binary = old.infer(iris_request(receipt=True, binary_data_output=True))
        head = json.loads(binary.content[: int(binary.headers["inference-header-content-length"])])
        assert payload(head["parameters"]["receipt"])["said"] == SAID

        told = tell(new, (receipt, [0, 2, 2]), (head["parameters"]["receipt"], [None, None, 1]), ("x.y", [1]))
        assert (told.status_code, told.json()) == (200, {"rows": 4, "refused": [{"index": 2, "reason": "forged"}]})
        name = "holdfast_feedback_rows_total"
        assert new.metric(name, revision="aaaaaaaaaa", outcome="correct") == 3
        assert new.metric(name, revision="aaaaaaaaaa", outcome="wrong") == 1
        assert new.metric(name, revision="bbbbbbbbbb", outcome="correct") == 0
        assert new.metric("holdfast_feedback_refused_total", reason="forged") == 1
        assert tell(new, (receipt, [0, 2, 2])).json()["refused"] == [{"index": 0, "reason": "repeated"}]
        assert "FeedbackRequest" in new.get("/openapi.json").json()["components"]["schemas"]


def test_a_regression_shows_the_errors_of_its_labels_beside_those_of_the_held_out_rows(tmp_path: Path) -> None:
    bundle = claim(tmp_path) / "sums"
    bundle.mkdir()
    errors = {"edges": [0.5, 2.0], "ratios": [0.75, 0.25, 0.0], "means": [0.25, 1.5, 2.0]}
    (bundle / "profile.json").write_text(json.dumps({"rows": 40, "absoluteError": errors}))
    tensors = {"inputs": [Tensor("x", "FP32", (-1, -1))], "outputs": [Tensor("y", "FP32", (-1,))]}
    digest = write_bundle(bundle, models.row_sums(), **tensors)
    keys(tmp_path / "feedback")
    arguments = ("--feedback", str(tmp_path / "feedback"))
    with Server(tmp_path, "pvc://models/sums", digest, *arguments, HOLDFAST_FEEDBACK_SECRET="wine-feedback") as server:
        until(server.ready, "readiness")
        asked = request(x=("FP32", [4, 2], [1.0, 2.0] * 4)) | {"parameters": {"receipt": True}}
        receipts = [server.infer(asked).json()["parameters"]["receipt"] for _ in range(3)]
        assert tell(server, (receipts[0], [3.5, 3.75, -1e9, None])).json() == {"rows": 3, "refused": []}
        assert tell(server, (receipts[1], [1e301] * 4)).json()["refused"] == [{"index": 0, "reason": "unfit"}]
        assert tell(server, (receipts[2], [3.0] * 4)).json()["rows"] == 4

        def shown(what: str) -> list[float]:
            return [server.metric(f"holdfast_model_absolute_error_{what}", bin=str(bin_)) for bin_ in range(3)]

        assert shown("bin_total") == [5, 1, 1]
        assert shown("reference_ratio") == errors["ratios"]
        assert shown("reference_mean") == errors["means"]
        assert server.metric("holdfast_model_absolute_error_reference_count") == 40
        assert server.metric("holdfast_model_info", profile="complete") == 1


@pytest.mark.parametrize("transport", ["holdfast", "grpcio"])
def test_grpc_answers_bear_receipts_too(tmp_path: Path, transport: str) -> None:
    with replica(tmp_path, HOLDFAST_GRPC_TRANSPORT=transport) as server, grpc_client(server) as client:
        asked = grpc_request(X=("FP32", [3, 4], [each for row in ROWS for each in row]), id="7")
        plain = client.call("ModelInfer", **asked)
        sealed = client.call("ModelInfer", **asked, parameters={"receipt": {"bool_param": True}})
        receipt = sealed.parameters.pop("receipt").string_param
        assert plain == sealed
        assert tell(server, (receipt, [0, 2, 0])).json() == {"rows": 3, "refused": []}
        assert server.metric("holdfast_feedback_rows_total", outcome="wrong") == 1
        with pytest.raises(grpc.RpcError, match="must be true or false"):
            client.call("ModelInfer", **asked, parameters={"receipt": {"string_param": "yes"}})


def test_too_many_labels_are_told_to_wait(tmp_path: Path) -> None:
    with replica(tmp_path, HOLDFAST_FEEDBACK_ROWS_PER_MINUTE="4") as server:
        sealed = [server.infer(iris_request(receipt=True)).json()["parameters"]["receipt"] for _ in range(2)]
        answer = tell(server, *((each, SAID) for each in sealed))
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert (answer.json()["rows"], answer.json()["refused"]) == (3, [{"index": 1, "reason": "capped"}])
        assert "in a minute" in answer.json()["error"]


def test_without_a_key_there_are_no_receipts_and_no_feedback(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris()) as server:
        refused = server.infer(iris_request(receipt=True))
        assert (refused.status_code, refused.json()["error"]) == (
            400,
            "there are no receipts here: feedback is off, since the server has no key for them",
        )
        told = tell(server, ("x.y", [1]))
        assert (told.status_code, told.json()["error"]) == (404, "feedback is off: this server has no key for receipts")
        assert "holdfast_feedback" not in server.manage("/metrics").text


def test_what_there_can_be_no_receipt_for_is_said(tmp_path: Path) -> None:
    with replica(tmp_path, content=models.lookup()) as server:
        asked = request(i=("INT64", [1], [1])) | {"parameters": {"receipt": True}}
        assert "one prediction per row" in server.infer(asked).json()["error"]
    with replica(tmp_path / "iris") as server:
        asked = request(X=("FP32", [1001, 4], [0.0] * 4004)) | {"parameters": {"receipt": True}}
        assert "no receipts for more than 1000 rows" in server.infer(asked).json()["error"]
        assert "must be true or false" in server.infer(iris_request(receipt="yes")).json()["error"]


def test_a_server_whose_key_is_missing_says_so_and_ends(tmp_path: Path) -> None:
    content = models.iris()
    (claim(tmp_path) / "model.onnx").write_bytes(content)
    (tmp_path / "feedback").mkdir()
    variables = {
        "HOLDFAST_MODEL_NAME": "wine",
        "HOLDFAST_MODEL_URI": "pvc://models/model.onnx",
        "HOLDFAST_MODEL_DIGEST": digest_of(content),
        "HOLDFAST_REVISION": REVISION,
        "HOLDFAST_FEEDBACK_SECRET": "wine-feedback",
    }
    with Process("serve", tmp_path, variables, "--feedback", str(tmp_path / "feedback")) as server:
        assert server.wait() != 0
        assert server.last_word["reason"] == "SecretNotFound"
        assert "wine-feedback" in server.last_word["message"]
        assert os.fspath(tmp_path) not in server.last_word["message"]


def test_feedback_can_be_kept_to_clients_with_a_certificate(tmp_path: Path) -> None:
    authority = Authority()
    secret = Secret(tmp_path / "tls" / "wine-tls")
    secret.put_identity(authority.issue(), authority)
    keys(tmp_path / "feedback")
    with serving(
        tmp_path, models.iris(), "--tls", str(tmp_path / "tls"), "--feedback", str(tmp_path / "feedback"),
        HOLDFAST_TLS_SECRET="wine-tls", HOLDFAST_FEEDBACK_SECRET="wine-feedback",
        HOLDFAST_FEEDBACK_CLIENT_AUTH="Required",
    ) as server:  # fmt: skip
        url = f"https://127.0.0.1:{server.port}"

        def ask(context: ssl.SSLContext, path: str, body: Any) -> httpx.Response:
            with httpx.Client(verify=context, timeout=60) as client:
                return client.post(f"{url}/v2/models/wine/{path}", json=body)

        anybody = trust(authority)
        answer = ask(anybody, "infer", iris_request(receipt=True))
        assert answer.status_code == 200
        body = {"feedback": [{"receipt": answer.json()["parameters"]["receipt"], "labels": SAID}]}
        refused = ask(anybody, "feedback", body)
        assert (refused.status_code, refused.json()["error"]) == (
            403,
            "feedback is for clients that show a certificate",
        )
        known = trust(authority, authority.issue("client", CLIENT), tmp_path)
        assert ask(known, "feedback", body).json() == {"rows": 3, "refused": []}
        stranger = trust(authority, Authority("another").issue("client", CLIENT), tmp_path)
        with pytest.raises(httpx.TransportError):
            ask(stranger, "feedback", body)


def test_a_receipt_names_the_revision_that_answered_wherever_the_request_came_in(tmp_path: Path) -> None:
    with (
        replica(tmp_path, leases.TARGET) as target,
        replica(tmp_path, "aaaaaaaaaa", HOLDFAST_ROUTER_PUBLIC_KEYS=leases.public(leases.KEY)) as entered,
    ):
        leases.Operator(entered, f"127.0.0.1:{target.port}").grant(weight=1)
        answer = entered.infer(iris_request(receipt=True)).json()
        assert answer["model_version"] == leases.TARGET
        receipt = answer["parameters"]["receipt"]
        assert payload(receipt) == payload(receipt) | {"revision": leases.TARGET, "said": SAID}
        assert tell(entered, (receipt, SAID)).json() == {"rows": 3, "refused": []}
        name = "holdfast_feedback_rows_total"
        assert entered.metric(name, revision=leases.TARGET, outcome="correct") == 3
        assert entered.metric(name, revision="aaaaaaaaaa", outcome="correct") == 0
