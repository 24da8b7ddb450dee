"""`python -m holdfast_training`: one training run; `gate`: a challenger against the champion; `batch`: a pod's share
of a scoring run; `poll`: are there new data; `verify-run URI`: train again and compare; `dataset NAME --output FILE`: a
data set to try it with.

Only light imports here: thread counts must be set, and SIGTERM be waited for, before numpy is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast_bundle import termination
from holdfast_bundle.credentials import taken_from
from holdfast_bundle.uris import CLAIMS
from holdfast_training import cpu, progress, spec
from holdfast_training.errors import MAX_FINDINGS, TrainingError

if TYPE_CHECKING:
    from holdfast_training.batch.parts import Parts
    from holdfast_training.output import Output

STOPPED = 143


def main(
    arguments: list[str] | None = None,
    *,
    claims: Path = CLAIMS,
    termination_log: Path = termination.PATH,
    progress_port: int = progress.PORT,
) -> int:
    """Returns the exit code: 0 done, 1 may pass, 3 permanent, 4 waits for a person, 5 another pod failed."""
    parser = argparse.ArgumentParser(prog="holdfast_training", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    dataset = commands.add_parser("dataset", help="write a public data set and print its digest")
    dataset.add_argument("name", choices=["wine", "breast-cancer", "diabetes", "digits"])
    dataset.add_argument("--output", type=Path, required=True, metavar="FILE")
    commands.add_parser("fetch", help="bring the data of HOLDFAST_RUN to a trainer of one's own")
    commands.add_parser("publish", help="publish what a trainer of one's own has left")
    commands.add_parser("gate", help="compare a challenger with the champion, as HOLDFAST_GATE says")
    commands.add_parser("batch", help="score the rows of a table, as HOLDFAST_BATCH says")
    commands.add_parser("poll", help="report the version of the data that HOLDFAST_POLL names")
    verify = commands.add_parser("verify-run", help="train again what a bundle was made from, and compare")
    verify.add_argument("uri", metavar="URI", help="the bundle's")
    verify.add_argument("--data", default="", metavar="URI", help="where the data are now, if they have moved")
    options = parser.parse_args(arguments)
    if options.command == "dataset":
        return _write_dataset(options.name, options.output)
    platform = taken_from(os.environ)
    threads = cpu.threads()
    cpu.limit_libraries(threads)
    stoppable, worker = Stoppable(), int(os.environ.get("JOB_COMPLETION_INDEX", "0"))

    def work() -> dict[str, Any]:
        match options.command:
            case "gate":
                return _gate(threads, claims, platform)
            case "batch":
                return _score(threads, claims, stoppable, progress_port, platform)
            case "verify-run":
                return _verify(options.uri, options.data, threads, claims, platform)
            case "poll":
                return _poll(claims, platform)
            case "fetch":
                return _fetch(claims, platform)
            case "publish" if worker:
                return {"result": "TookPart"}
            case "publish":
                return _publish(threads, claims, stoppable, platform)
            case _:
                return _train(threads, claims, stoppable, progress_port, platform, worker)

    payload, code = guarded(work)
    termination.write(payload, termination_log)
    log(payload.get("result", "failed"), **{key: payload[key] for key in ("reason", "message") if key in payload})
    return code


def log(event: str, **facts: Any) -> None:
    """One line of JSON on standard output."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"time": moment, "event": event, **facts}, ensure_ascii=False), flush=True)


class Stoppable:
    """SIGTERM ends the process at once, wherever it is, and takes the unfinished output along.

    A thread waits for the signal: a handler of Python's would wait for the end of a fit in C. Blocking it first
    matters in a container too, where the kernel drops unhandled signals to process 1.
    """

    def __init__(self) -> None:
        self.output: Output | Parts | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._wait, name="sigterm", daemon=True).start()

    def _wait(self) -> None:
        signal.sigwait({signal.SIGTERM})
        log("stopped", message="SIGTERM: nothing was published")
        if self.output is not None:
            self.output.stop()
        os._exit(STOPPED)


def _train(
    threads: int, claims: Path, stoppable: Stoppable, progress_port: int, platform: Mapping[str, str], worker: int
) -> dict[str, Any]:
    run = spec.parse(os.environ["HOLDFAST_RUN"])
    told = progress.Progress()
    progress.serve(told, progress_port)
    from holdfast_training.access import Access
    from holdfast_training.output import output_at
    from holdfast_training.train import train

    access = Access(run.service_account, platform)
    output = stoppable.output = output_at(
        run.output_uri, run.output_folder, claims=claims, credentials=access.to("output", run.output_secret)
    )
    with tempfile.TemporaryDirectory(prefix="holdfast-") as scratch:
        return train(
            run,
            output,
            scratch=Path(scratch),
            threads=threads,
            log=log,
            claims=claims,
            progress=told,
            access=access,
            worker=worker,
            leader=_leader(os.environ),
        )


def _leader(variables: Mapping[str, str]) -> tuple[str, int] | None:
    """Where the workers of a distributed run meet, by the names that PyTorch gives to that."""
    return (host, int(variables["MASTER_PORT"])) if (host := variables.get("MASTER_ADDR")) else None


def _verify(uri: str, data_uri: str, threads: int, claims: Path, platform: Mapping[str, str]) -> dict[str, Any]:
    from holdfast_training.access import Access
    from holdfast_training.again import verify_run

    with tempfile.TemporaryDirectory(prefix="holdfast-") as scratch:
        return verify_run(
            uri,
            data_uri,
            scratch=Path(scratch),
            threads=threads,
            log=log,
            claims=claims,
            access=Access(platform=platform),
        )


def _fetch(claims: Path, platform: Mapping[str, str]) -> dict[str, Any]:
    from holdfast_training import own
    from holdfast_training.access import Access

    run = own.parse(os.environ["HOLDFAST_RUN"])
    return own.fetch(run, access=Access(run.service_account, platform), log=log, claims=claims)


def _publish(threads: int, claims: Path, stoppable: Stoppable, platform: Mapping[str, str]) -> dict[str, Any]:
    from holdfast_training import own
    from holdfast_training.access import Access
    from holdfast_training.output import output_at

    run = own.parse(os.environ["HOLDFAST_RUN"])
    access = Access(run.service_account, platform)
    credentials = access.to("output", run.output_secret)
    output = stoppable.output = output_at(run.output_uri, run.output_folder, claims=claims, credentials=credentials)
    return own.publish(run, output, threads=threads, access=access, log=log, claims=claims)


def _poll(claims: Path, platform: Mapping[str, str]) -> dict[str, Any]:
    from holdfast_training.poll import poll

    return poll(os.environ["HOLDFAST_POLL"], claims=claims, platform=platform)


def _gate(threads: int, claims: Path, platform: Mapping[str, str]) -> dict[str, Any]:
    from holdfast_training import gate, tracking
    from holdfast_training.access import Access
    from holdfast_training.listing import PRODUCTION

    asked = gate.parse(os.environ["HOLDFAST_GATE"])
    access = Access(asked.service_account, platform)
    with tempfile.TemporaryDirectory(prefix="holdfast-") as scratch:
        report = gate.judge(asked, scratch=Path(scratch), threads=threads, log=log, claims=claims, access=access)
    return tracking.named(asked.tracking, report, access=access, web=PRODUCTION, log=log)


def _score(
    threads: int, claims: Path, stoppable: Stoppable, progress_port: int, platform: Mapping[str, str]
) -> dict[str, Any]:
    from holdfast_training.batch import spec as batch_spec

    batch = batch_spec.parse(os.environ["HOLDFAST_BATCH"], int(os.environ["JOB_COMPLETION_INDEX"]))
    told = progress.Progress()
    progress.serve(told, progress_port)
    from holdfast_training.access import Access
    from holdfast_training.batch.parts import parts_at
    from holdfast_training.batch.score import score

    access = Access(batch.service_account, platform)
    parts = stoppable.output = parts_at(
        batch.output_uri,
        batch.output_folder,
        batch.shards,
        claims=claims,
        credentials=access.to("output", batch.output_secret),
    )
    with tempfile.TemporaryDirectory(prefix="holdfast-") as scratch:
        return score(
            batch, parts, scratch=Path(scratch), threads=threads, log=log, claims=claims, access=access, progress=told
        )


def guarded(work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], int]:
    """The payload for the operator and the exit code, whatever happens."""
    try:
        return work(), 0
    except TrainingError as error:
        failure = error
    except MemoryError:
        failure = TrainingError("OutOfMemory", "there is not enough memory; raise resources.limits.memory")
    except Exception as error:
        traceback.print_exc()  # for the pod's log only: a message must not hold values
        kind = type(error).__name__
        failure = TrainingError("InternalError", f"a defect of the trainer ({kind}); the pod's log has the details")
    for finding in failure.findings:
        log("finding", **finding.to_json())
    findings = [finding.to_json() for finding in failure.findings[:MAX_FINDINGS]]
    return {"reason": failure.reason, "message": failure.message, "findings": findings}, failure.exit_code


def _write_dataset(name: str, path: Path) -> int:
    from holdfast_training import datasets

    try:
        digest = datasets.write(name, path)
    except (OSError, ValueError) as error:
        print(f"{path}: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1
    print(f"{digest}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
