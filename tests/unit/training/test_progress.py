"""What a running pod says about itself."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from holdfast_training import progress
from holdfast_training.progress import Progress


def asked(port: int, path: str = "/progress") -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.load(answer)


def test_it_says_what_the_run_said_last_and_keeps_the_facts() -> None:
    told = Progress()
    port = progress.serve(told, 0)
    assert port is not None
    assert asked(port) == {"message": "starting"}
    told.say("trial 2 of 3", trialsTotal=3, trialsCompleted=1)
    told.say("fitting the best")
    assert asked(port) == {"message": "fitting the best", "trialsTotal": 3, "trialsCompleted": 1}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asked(port, "/metrics")


def test_a_client_that_sends_nothing_does_not_keep_others_out_for_long() -> None:
    port = progress.serve(Progress(), 0)
    assert port is not None
    with socket.create_connection(("127.0.0.1", port)):
        assert asked(port) == {"message": "starting"}


def test_a_port_that_is_taken_stops_nothing() -> None:
    with socket.create_server(("", 0)) as taken:
        assert progress.serve(Progress(), taken.getsockname()[1]) is None


def test_a_run_tells_where_it_is(claim: Any, shipped: Any) -> None:
    told: list[str] = []

    class Listening(Progress):
        def say(self, message: str, **facts: Any) -> None:
            told.append(message)

    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    claim.train(claim.spec(uri, "cultivar", "Classification", "GaussianNB"), progress=Listening())
    assert told == [
        "reading the data",
        "fitting GaussianNB",
        "measuring",
        "converting to ONNX",
        "explaining",
        "publishing",
    ]
