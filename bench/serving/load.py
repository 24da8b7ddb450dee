"""Closed loops from other programs: wrk for HTTP/1.1, h2load for gRPC."""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.serving.calls import INFER, Call, Caller
from bench.serving.client import Client, Witness
from bench.serving.questions import Question, WrongAnswerError
from bench.serving.running import Running

_PREFIX = struct.Struct(">BI")
_REQUESTS = re.compile(
    r"(\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored, (\d+) timeout\nstatus codes: (\d+) 2xx"
)
_DATA = re.compile(r"\((\d+)\) data")
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What a load measured.

    Attributes:
        rate: requests per second.
        cpu_us: the server's CPU time per request.
        p50_us, p99_us: of the latency; NaN where the program does not say.
    """

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float


def rest(server: Running, questions: Sequence[Question], connections: int, seconds: int) -> Load:
    """The first question over and over on so many connections, all of them beside it, one by one.

    Raises:
        WrongAnswerError: an answer had another status than 200 or another size, or one of those that were looked
            into was wrong.
    """
    question = questions[0]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT)]
    command += [f"http://127.0.0.1:{server.port}{question.path}", "--", "{body}"]
    command += [f"{name}: {value}" for name, value in question.fields.items()]
    witness = Witness(partial(Client, server.port), questions)
    output, cpu = _run(command, question.body, witness, server)
    found = json.loads(output.splitlines()[-1])
    if found["failures"]:
        raise WrongAnswerError(f"{found['failures']} of {found['requests']} requests failed")
    _check_size(found["bytes"], found["requests"], witness.size)
    answered = found["requests"] + witness.asked  # of slow models, the witness takes a good part
    return Load(answered / found["seconds"], cpu / answered * 1e6, found["p50_us"], found["p99_us"])


def rpc(server: Running, calls: Sequence[Call], seconds: int) -> Load:
    """The first call over and over, 32 at a time on 8 connections, all of them beside it, one by one.

    Raises:
        WrongAnswerError: as `rest`; the size is that of the messages.
    """
    message = calls[0].message
    command = ["h2load", "-t1", "-c8", "-m4", f"-D{seconds}", "-d", "{body}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command += [f"http://127.0.0.1:{server.grpc_port}{INFER}"]
    witness = Witness(partial(Caller, server.grpc_port), calls)
    output, cpu = _run(command, _PREFIX.pack(0, len(message)) + message, witness, server)
    done, failed, errored, timed_out, right = map(int, _found(_REQUESTS, output))
    if failed or errored or timed_out or right < done:
        raise WrongAnswerError(f"of {done} calls, {right} were answered with 200")
    (size,) = _found(_DATA, output)
    _check_size(int(size), done, witness.size + _PREFIX.size)
    answered = done + witness.asked
    return Load(answered / seconds, cpu / answered * 1e6, math.nan, math.nan)


def _run(
    command: Sequence[str], body: bytes, witness: Witness[Question] | Witness[Call], server: Running
) -> tuple[str, float]:
    """(what the program prints, the server's CPU seconds meanwhile); `{body}` stands for a file with the body."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        witness.start()
        before = server.cpu_seconds()
        done = subprocess.run(
            ["taskset", "--cpu-list", server.load_cores, *(part.replace("{body}", file.name) for part in command)],
            capture_output=True,
            text=True,
            check=True,
        )
        cpu = server.cpu_seconds() - before
        witness.finish()
    return done.stdout, cpu


def _found(pattern: re.Pattern[str], output: str) -> tuple[str, ...]:
    match = pattern.search(output)
    if match is None:
        raise WrongAnswerError(f"the load says: {output[-500:]}")
    return match.groups()


def _check_size(total: int, answers: int, expected: int) -> None:
    """Headers may differ by some bytes, and so may numbers."""
    if not answers:
        raise WrongAnswerError("nothing was answered")
    size = total / answers
    if abs(size - expected) > 0.1 * expected:
        raise WrongAnswerError(f"{answers} answers have {size:.1f} bytes each, those that were looked into {expected}")
