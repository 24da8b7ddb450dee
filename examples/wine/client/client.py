"""Ask a served model and compare its answers with those that the trained pipeline gave itself.

The trainer wrote held-out rows and scikit-learn's own answers to them into the bundle's golden.json. This
program sends the same rows through the Service and prints both. It needs nothing but the standard library.

    python client.py http://wine/v2/models/wine FOLDER-WITH-BUNDLES
"""

import json
import math
import sys
import urllib.request
from pathlib import Path
from typing import Any


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST of a JSON body; the decoded JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
    return answer


def agrees(served: list[Any], expected: list[Any], tolerance: dict[str, float]) -> bool:
    """Whether two flat tensors are equal: numbers within the bundle's tolerance, all else exactly."""
    if len(served) != len(expected):
        return False
    return all(
        math.isclose(a, b, rel_tol=tolerance["relative"], abs_tol=tolerance["absolute"])
        if isinstance(b, float)
        else a == b
        for a, b in zip(served, expected, strict=True)
    )


def main(model_url: str, bundles: Path) -> int:
    """Send every golden request; 0 when all answers agree."""
    metadata = call(model_url)
    print(f"{metadata['name']}, version {metadata['versions']}, {len(metadata['inputs'])} inputs")
    golden = json.loads(max(bundles.glob("*/golden.json"), key=lambda f: f.stat().st_mtime).read_text())
    wrong = 0
    for number, request in enumerate(golden["requests"], 1):
        answer = call(f"{model_url}/infer", {"id": str(number), "inputs": request["inputs"]})
        served = {output["name"]: output["data"] for output in answer["outputs"]}
        expected = {output["name"]: output["data"] for output in request["outputs"]}
        same = all(agrees(served[name], data, golden["tolerance"]) for name, data in expected.items())
        wrong += not same
        first = next(iter(expected))
        print(
            f"row {number}: served {first} {served[first]}, trained pipeline {expected[first]}",
            "ok" if same else "WRONG",
        )
    print(f"{len(golden['requests'])} requests, {wrong} wrong answers")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
