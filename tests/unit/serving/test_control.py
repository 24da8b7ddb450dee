"""What a pod says of itself at `/router`, with and without leases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.serving import models
from tests.unit.serving.leases import KEY, Operator, public
from tests.unit.serving.server import Server, claim, digest_of, request, serving, until

from holdfast_bundle.manifest import Tensor
from holdfast_serving.signature import Signature

X = Tensor("x", "FP32", (-1, 4))
LABEL = Tensor("label", "INT64", (-1,))
SCORES = Tensor("scores", "FP32", (-1, 3))
OURS = Signature((X,), (LABEL, SCORES))


@pytest.mark.parametrize(
    "other",
    [
        Signature((X,), (SCORES, LABEL)),
        Signature((X,), (LABEL,)),
        Signature((X, LABEL), (SCORES,)),
        Signature((Tensor("y", "FP32", (-1, 4)),), (LABEL, SCORES)),
        Signature((Tensor("x", "FP64", (-1, 4)),), (LABEL, SCORES)),
        Signature((Tensor("x", "FP32", (-1, 5)),), (LABEL, SCORES)),
        Signature((Tensor("x", "FP32", (1, 4)),), (LABEL, SCORES)),
    ],
)
def test_models_that_take_or_give_something_else_have_other_digests(other: Signature) -> None:
    assert other.digest != OURS.digest


def test_a_model_whose_rows_share_runs_has_the_digest_of_one_whose_rows_do_not() -> None:
    said_to_be_one = Signature((X,), (Tensor("label", "INT64", (1,)), SCORES))
    assert said_to_be_one.digest == said_to_be_one.with_rows().digest == OURS.digest


def test_a_pod_tells_what_it_is_without_any_key(tmp_path: Path) -> None:
    began = time.monotonic()
    with serving(tmp_path, models.iris()) as server:
        first = server.manage("/router").json()
        time.sleep(0.2)
        second = server.manage("/router").json()
    assert first["signature"] == second["signature"]
    assert len(bytes.fromhex(first["signature"])) == 32
    assert 0 < first["startedSeconds"] + 0.2 <= second["startedSeconds"] <= time.monotonic() - began
    assert (first["inFlightLocal"], first["oldestLocalSeconds"], first["sequence"]) == (0, 0, 0)
    assert first["takesLeases"] is False


def test_before_the_model_is_there_a_pod_has_no_signature(tmp_path: Path) -> None:
    content = models.iris()
    (claim(tmp_path) / "model.onnx").write_bytes(content)
    with Server(tmp_path, "pvc://models/model.onnx", digest_of(content)) as server:
        found = server.manage("/router").json()
        if not found["ready"]:
            assert found["signature"] is None
        until(server.ready, "readiness")
        assert server.manage("/router").json()["signature"]


def test_the_last_sequence_number_outlasts_its_lease(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), HOLDFAST_ROUTER_PUBLIC_KEYS=public(KEY)) as server:
        operator = Operator(server, "127.0.0.1:1")
        taken = operator.grant(seconds=0.1)["lease"]["sequence"]
        until(lambda: operator.read()["lease"] is None, "the end")
        assert operator.read()["sequence"] == taken


def test_the_age_of_a_request_in_the_model_is_told(tmp_path: Path) -> None:
    slow = request(x=("FP32", [1, 1], [300_000]))

    def told(server: Server, pool: ThreadPoolExecutor) -> float:
        """The greatest part of a run's time that was told as its age."""
        began = time.monotonic()
        asked = pool.submit(server.infer, slow)
        seen = [server.manage("/router").json()]
        while not asked.done():
            seen.append(server.manage("/router").json())
        took = time.monotonic() - began
        assert asked.result().status_code == 200
        ages = [found["oldestLocalSeconds"] for found in seen if found["inFlightLocal"]]
        assert ages == sorted(ages)
        assert all(0 <= age < took for age in ages)
        return max(ages, default=0.0) / took

    with serving(tmp_path, models.patient()) as server, ThreadPoolExecutor(1) as pool:
        for _ in range(2):  # it is fast when it is loaded; from now on it runs in a thread
            assert server.infer(slow).status_code == 200
        until(lambda: told(server, pool) > 1 / 3, "an age")
        last = server.manage("/router").json()
    assert (last["inFlightLocal"], last["oldestLocalSeconds"]) == (0, 0)
