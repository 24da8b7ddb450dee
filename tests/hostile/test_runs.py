"""What a model does with a value that no probe has tried: it costs the request, and not the server."""

from __future__ import annotations

import json
from pathlib import Path

from tests.hostile.bombs import endless_branch
from tests.hostile.exchange import Line
from tests.unit.serving.server import http, request, serving

ENDLESS = json.dumps(request(x=("FP32", [1, 1], [2e9]))).encode()


def test_a_run_without_end_is_stopped_and_the_next_one_is_not(tmp_path: Path) -> None:
    content = endless_branch("1e9")()
    with serving(tmp_path, content, HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS="2000") as server:
        for _ in range(2):  # inline, and then in the thread, for now the model is known to be slow
            with Line(server.port) as line:
                refused = line.say(http("POST", server.infer_path, ENDLESS), 1)
            assert refused.statuses == [504]
            assert b"was stopped" in refused.bodies[0]
            assert server.ask(x=("FP32", [1, 1], [2.5]))["y"]["data"] == [2.5]
        assert server.manage("/livez").status_code == 200
        assert server.outcomes()["ok"] == 2
        assert server.metric("holdfast_inference_requests_total", outcome="timeout") == 2
