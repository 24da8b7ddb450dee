"""Rows of one of river's generators: names of the columns as a line of JSON, then all numbers, float32, truth last.

Runs in river's environment. The question is the only argument, see synthetic.py.
"""

from __future__ import annotations

import json
import sys
from array import array
from typing import Any

from river.datasets import synth


def _generator(described: dict[str, Any], seed: int) -> Any:
    arguments = dict(described)
    return getattr(synth, arguments.pop("name"))(**arguments, seed=seed)


def main() -> None:
    question = json.loads(sys.argv[1])
    seed = question["seed"]
    stream = _generator(question["generator"], seed)
    if "after" in question:
        stream = synth.ConceptDriftStream(
            stream=stream,
            drift_stream=_generator(question["after"], seed + 1),
            position=question["position"],
            width=question["width"],
            seed=seed + 2,
        )
    numbers = array("f")
    names: list[str] = []
    for row, truth in stream.take(question["count"]):
        names = names or [f"x{name}" if isinstance(name, int) else name for name in row]
        numbers.extend(row.values())
        numbers.append(float(truth))
    sys.stdout.buffer.write(json.dumps(names).encode() + b"\n" + numbers.tobytes())


main()
