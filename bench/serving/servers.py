"""The servers, each at its best-known settings for one core and a small model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.serving.calls import Call
from bench.serving.models import Prepared
from bench.serving.questions import Question
from tests.unit.serving import environments

HERE = Path(__file__).parent
PEERS = HERE / "peers"
ROOT = HERE.parents[1]
RAW, UNCOUNTED = HERE / "raw.py", HERE / "uncounted.py"
OWN_PATH = f"{ROOT}:{ROOT / 'serving-image'}:{ROOT / 'model-bundle'}"
REVISION = "5f3a9c0d1e"


@dataclass(frozen=True, slots=True)
class Server:
    """How to start a server; for `{port}` and the like see `running`.

    Attributes:
        folder: its working directory.
        reads: whether its answer depends on what it is asked.
        cores: that it has.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = HERE
    speaks_grpc: bool = False
    reads: bool = True
    cores: int = 1


def holdfast(
    model: Prepared, scratch: Path, *, name: str = "holdfast", program: tuple[str, ...] = ("-m", "holdfast_serving")
) -> Server:
    """Our own server with the model's bundle."""
    return Server(
        name,
        [
            *(sys.executable, *program, "serve", "--host", "127.0.0.1", "--port", "{port}"),
            *(
                "--grpc-port",
                "{grpc_port}",
                "--management-port",
                "{other_port}",
                "--claims",
                str(scratch / "claims"),
                "--scratch",
                str(scratch),
            ),
            *("--termination-log", str(scratch / "termination"), "--drain-seconds", "0"),
        ],
        {
            "PYTHONPATH": OWN_PATH,
            "HOLDFAST_MODEL_NAME": model.name,
            "HOLDFAST_MODEL_URI": model.uri,
            "HOLDFAST_MODEL_DIGEST": model.digest,
            "HOLDFAST_REVISION": REVISION,
        },
        speaks_grpc=True,
    )


def on_two_cores(server: Server) -> Server:
    """The same with a process for each of two cores."""
    return replace(
        server,
        name=f"{server.name}_2",
        command=[*server.command, *(("--cpus", "2") if server.name == "holdfast" else ())],
        environment=server.environment | {"WORKERS": "2"},
        cores=2,
    )


def null(question: Question, call: Call, scratch: Path) -> Server:
    """Our own protocol stacks with the right answers to these as constants."""
    answer, message = scratch / "answer.json", scratch / "answer.binpb"
    answer.write_bytes(question.answer("iris", REVISION))
    message.write_bytes(call.answer("iris", REVISION))
    environment = {"PYTHONPATH": OWN_PATH, "PORT": "{port}", "GRPC_PORT": "{grpc_port}"}
    command = [sys.executable, str(HERE / "null.py"), str(answer), str(message)]
    return Server("null", command, environment, speaks_grpc=True, reads=False)


def peer(name: str, model: Prepared) -> Server:
    """Another project's server, in its own environment, which is made when it is not there.

    Raises:
        subprocess.CalledProcessError: it cannot be made.
    """
    python = environments.python(
        f"bench-{name.partition('_')[0]}", made_with=">=3.11,<3.13"
    )  # MLServer has no newer one
    made = _PEERS[name](python)
    environment = {
        "MODEL": str(model.file),
        "PORT": "{port}",
        "GRPC_PORT": "{grpc_port}",
        "PATH": f"{python.parent}:/usr/bin:/bin",
        # More threads than the core would only disturb each other.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **made.environment,
    }
    return Server(name, made.command, environment, made.folder, made.speaks_grpc)


def _bentoml(python: Path) -> Server:
    command = [str(python.with_name("bentoml")), "serve", "bentoml_service:Iris"]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    return Server("bentoml", command, {"BENTOML_DO_NOT_TRACK": "True"}, PEERS)


def _mlserver(python: Path) -> Server:
    settings = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": "{port}",
        "MLSERVER_GRPC_PORT": "{grpc_port}",
        "MLSERVER_METRICS_PORT": "{other_port}",
        "MLSERVER_PARALLEL_WORKERS": "0",  # its own advice for light models
        "MLSERVER_DEBUG": "false",
    }
    return Server("mlserver", [str(python.with_name("mlserver")), "start", "."], settings, PEERS / "mlserver", True)


def _script(name: str, *, speaks_grpc: bool = False, **environment: str) -> Callable[[Path], Server]:
    def make(python: Path) -> Server:
        return Server(name, [str(python), str(PEERS / f"{name}_server.py")], environment, speaks_grpc=speaks_grpc)

    return make


_PEERS: dict[str, Callable[[Path], Server]] = {
    "fastapi": _script("fastapi"),
    "fastapi_def": _script("fastapi", HANDLER="def"),
    "mlserver": _mlserver,
    "kserve": _script("kserve", speaks_grpc=True),
    "bentoml": _bentoml,
    "litserve": _script("litserve"),
}
PEER_NAMES = tuple(_PEERS)
