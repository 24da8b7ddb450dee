"""`make fuzz`: octets for every target for a while, and models by the thousand; the last line is one JSON object.

Where atheris is installed, a target learns from what it covers; elsewhere its octets are changed at random. Whatever
is found is written to the folder that is named then; it belongs into `targets.FINDINGS` once it is mended.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from tests.hostile.mutate import mutants
from tests.hostile.targets import FINDINGS, TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--models", type=int, default=10_000, help="mutants of models")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cover", metavar="FOLDER", type=Path, help="be the process of one target, with atheris")
    options = parser.parse_args()
    if options.cover:
        return _cover(options.targets[0], options)
    learns = importlib.util.find_spec("atheris") is not None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    results: dict[str, Any] = {"learns": learns, "findings": 0}
    for name in options.targets or TARGETS:
        found = _learning(name, folder, options) if learns else _guessing(name, folder, options)
        results["findings"] += found
        _say(f"{name}: {'FOUND something, see ' + str(folder) if found else 'nothing found'}")
    if options.models:
        results["models"] = _models(folder, options)
    print(json.dumps(results))
    return 1 if results["findings"] or "error" in results.get("models", {}) else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _learning(name: str, folder: Path, options: argparse.Namespace) -> int:
    """Fuzz a target in a process of its own; how many findings."""
    command = [sys.executable, "-m", "tests.hostile.fuzz", name, "--cover", str(folder)]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    with (folder / f"{name}.log").open("w") as log:
        return int(subprocess.run(command, stderr=log, check=False).returncode != 0)


def _cover(name: str, options: argparse.Namespace) -> int:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["holdfast_serving", "holdfast_bundle"]):
        run, seeds = TARGETS[name]()
    corpus = options.cover / name
    corpus.mkdir()
    for number, seed in enumerate([*seeds, *FINDINGS.get(name, ())]):
        (corpus / f"seed{number}").write_bytes(seed)
    flags = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-timeout=10", "-rss_limit_mb=2048"]
    flags.append(f"-artifact_prefix={options.cover}/{name}-")
    atheris.Setup([sys.argv[0], *flags, str(corpus)], run)
    atheris.Fuzz()
    return 0


def _guessing(name: str, folder: Path, options: argparse.Namespace) -> int:
    run, seeds = TARGETS[name]()
    ends = time.monotonic() + options.seconds
    for seed in count(options.seed):
        for content in mutants(seeds, 1000, seed):
            try:
                run(content)
            except BaseException:
                (folder / f"{name}-crash").write_bytes(content)
                raise
            if time.monotonic() > ends:
                return 0
    return 0


def _models(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """How far mutants of models get."""
    from tests.hostile.model_mutants import judge_all
    from tests.hostile.nursery import Nursery

    place = folder / "model"
    place.mkdir()
    total: dict[str, Any] = {"refused": 0, "crashed": 0, "served": 0}
    with Nursery() as nursery:
        nursery.patience = 5
        for part in range(0, options.models, 500):
            try:
                outcomes = judge_all(min(500, options.models - part), options.seed * 1000 + part, place, nursery)
            except AssertionError as error:
                return total | {"error": f"{error}: {error.__cause__}", "folder": str(folder)}
            for outcome, number in outcomes.items():
                total[outcome] += number
            _say(f"models: {total}")
    return total


if __name__ == "__main__":
    sys.exit(main())
