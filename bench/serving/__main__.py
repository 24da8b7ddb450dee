"""`make bench-serving`: our model server beside those that a Python team would take otherwise, in one run.

The server has one core, the load another (in the part `cpus`, servers with one core and with two: then the load shares
them). All servers take turns, several times over. Each answer's status and size is checked, some answers down to the
last number; a server that answers wrongly has no figure. The last line on standard output is one JSON object: medians
under the names of the goals, and `rows` with median, smallest and largest of everything that was measured of each
server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.serving import models
from bench.serving.findings import Findings, say
from bench.serving.image import image_mb
from bench.serving.page import FROM_ELSEWHERE
from bench.serving.parts import Bench
from bench.serving.running import LOAD_CORE
from bench.serving.servers import PEER_NAMES
from tests.unit.serving import zoo

from holdfast_devcluster import packages

SERVERS = ("holdfast", "null", *PEER_NAMES)
PARTS: dict[str, Callable[[Bench, argparse.Namespace], None]] = {
    "iris": lambda bench, options: bench.iris(options.servers),
    "cpus": lambda bench, _: bench.cpus(),
    "counters": lambda bench, _: bench.counters(),
    # The runtime's limit is taken at batches of 32, and so is the server's. A row alone is bound by HTTP, see `null`.
    "mlp": lambda bench, _: bench.against_raw("mlp_c64", zoo.perceptron, connections=64, batches=(32,), rows_each=32),
    "mlp-single": lambda bench, _: bench.against_raw("mlp_c64_single", zoo.perceptron, connections=64, batches=(32,)),
    "cnn": lambda bench, _: bench.against_raw("cnn", partial(_of_torch, bench, "cnn"), connections=4, batches=(1,)),
    "transformer": lambda bench, _: bench.against_raw(
        "transformer", partial(_of_torch, bench, "transformer"), connections=4, batches=(1,)
    ),
    "image": lambda bench, _: _measure_image(bench.found),
}


def main() -> int:
    options = _options()
    packages.require(("wrk", "h2load"), say)
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as scratch:
        bench = Bench(Path(scratch), options.rounds, options.seconds, options.warm_up)
        for name in options.only:
            PARTS[name](bench, options)
    document = json.dumps(_result(bench.found, options))
    if options.output:
        options.output.write_text(document + "\n")
    print(document)
    return 1 if bench.found.failures else 0


def _of_torch(bench: Bench, name: str) -> zoo.Subject:
    return models.of_torch(name, bench.scratch, say)


def _measure_image(found: Findings) -> None:
    with found.guarded("image"):
        found.add("holdfast", image_mb=image_mb(say))


def _result(found: Findings, options: argparse.Namespace) -> dict[str, Any]:
    """All keys are always there; null stands for what was not measured, and `notes` says why."""

    def own(measure: str) -> float | None:
        return found.medians(measure).get("holdfast")

    result = {
        "iris_json_c32": found.medians("iris_json_c32"),
        "grpc_c32": found.medians("grpc_c32"),
        "cpus_json_c32": found.medians("cpus_json_c32"),
        "iris_json_c1_p50_us": found.medians("iris_json_c1_p50_us"),
        "mlp_c64_of_raw": own("mlp_c64_of_raw"),
        "cnn_of_raw": own("cnn_of_raw"),
        **{key: own(key) for key in ("counters_cost", "ready_ms", "pss_mb", "image_mb")},
        **{key: _given(options, key) for key in FROM_ELSEWHERE},
    }
    notes = {key: "not measured in this run" for key, value in result.items() if value in (None, {})}
    return {
        **result,
        "notes": notes,
        "failures": found.failures,
        "rows": found.rows(),
        "run": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[2],
            "python": platform.python_version(),
        },
    }


def _given(options: argparse.Namespace, key: str) -> Any:
    """What another benchmark measured; None when its result was not given."""
    file: Path | None = options.router if key.startswith("router") else options.rollouts
    return json.loads(file.read_text().splitlines()[-1])[key] if file else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-serving", description=__doc__)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS, help="for iris, only these")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="only these parts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of every load")
    parser.add_argument("--warm-up", type=int, default=2, help="seconds of load before it")
    parser.add_argument("--rollouts", type=Path, help="JSON with rollouts_failed_requests and rollouts_requests")
    parser.add_argument("--router", type=Path, help="JSON with router_hop_us")
    parser.add_argument("--output", type=Path, help="write the object to this file, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
