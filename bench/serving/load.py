"""Closed loops from other programs: wrk for HTTP/1.1, h2load for gRPC."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.serving.client import Witness
from bench.serving.questions import Question, WrongAnswerError
from bench.serving.running import LOAD_CORE, Running

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What a load measured.

    Attributes:
        rate: requests per second.
        cpu_us: the server's CPU time per request.
    """

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float


def rest(server: Running, questions: Sequence[Question], connections: int, seconds: float) -> Load:
    """The first question over and over on so many connections, all of them beside it, one by one.

    Raises:
        WrongAnswerError: an answer had another status than 200 or another size, or one of those that were looked
            into was wrong.
    """
    question = questions[0]
    witness = Witness(server.port, questions)
    with tempfile.NamedTemporaryFile() as body:
        body.write(question.body)
        body.flush()
        witness.start()
        before = server.cpu_seconds()
        done = subprocess.run(
            [
                *("taskset", "--cpu-list", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s"),
                *("--timeout", "10s", "-s", str(SCRIPT), f"http://127.0.0.1:{server.port}{question.path}", "--"),
                *(body.name, *(f"{name}: {value}" for name, value in question.fields.items())),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        cpu = server.cpu_seconds() - before
        witness.finish()
    found = json.loads(done.stdout.splitlines()[-1])
    if found["failures"]:
        raise WrongAnswerError(f"{found['failures']} of {found['requests']} requests failed")
    size = found["bytes"] / max(found["requests"], 1)
    if abs(size - witness.size) > 0.1 * witness.size:
        raise WrongAnswerError(f"answers have {size:.0f} bytes, those that were looked into {witness.size}")
    answered = found["requests"] + witness.asked  # of slow models, the witness takes a good part
    return Load(answered / found["seconds"], found["p50_us"], found["p99_us"], cpu / answered * 1e6)
