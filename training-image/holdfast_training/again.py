"""`verify-run`: train again from what a bundle's manifest seals, and compare what comes out."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_file
from holdfast_bundle.manifest import Manifest
from holdfast_bundle.uris import CLAIMS, parse
from holdfast_bundle.web import Web
from holdfast_training import contender, spec
from holdfast_training.access import Access
from holdfast_training.errors import Finding, TrainingError
from holdfast_training.listing import PRODUCTION
from holdfast_training.output import MAX_SMALL_BYTES, NOTES, Output, notes_in, output_at
from holdfast_training.train import train

_SHOWN = 80

Log = Callable[..., None]


def verify_run(
    uri: str,
    data_uri: str = "",
    *,
    scratch: Path,
    threads: int = 1,
    log: Log = lambda event, **facts: None,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    access: Access | None = None,
) -> dict[str, Any]:
    """Train again what the bundle at `uri` holds; what goes into the termination message when it comes out the same.

    Args:
        data_uri: where the data are by now; empty: where the run read them.

    Raises:
        TrainingError: `DigestMismatch` with every difference as a finding; `ModelInvalid` for a bundle that does not
            say how it was made; else as `contender.load` and `train`.
    """
    access = access or Access()
    credentials = access.to("output", access.mounted("output"))
    sealed = contender.load("bundle", uri, None, scratch / "sealed", claims=claims, web=web, credentials=credentials)
    where = data_uri or _data_uri(uri, scratch / NOTES, claims, web, access)
    run = _run(uri, sealed.manifest, where, access)
    with _other_workers(run, scratch, threads, claims, web, access) as leader:
        output = _take_part(0, run, leader, scratch, threads, claims, web, access, log)
    if (made := output.finished()) is None or sealed.manifest is None:
        raise RuntimeError("a run that ended well has a bundle")
    repeated = run.tuning is not None or "tuning" not in sealed.manifest.lineage
    found = list(differences(sealed.manifest, made[1], passing_over=() if repeated else ("tuning",)))
    if found:
        message = f"trained again, {uri} is {made[0]} and not {sealed.digest}: {'; '.join(found)}"
        raise TrainingError("DigestMismatch", message, [Finding("Different", words) for words in found])
    but = "" if repeated else ", but for the search, which several pods shared and which was not repeated"
    return {"result": "Same", "digest": sealed.digest, "message": f"trained again, {uri} is the same{but}"}


@contextmanager
def _other_workers(
    run: spec.Run, scratch: Path, threads: int, claims: Path, web: Web, access: Access
) -> Iterator[tuple[str, int] | None]:
    """All workers but the first as processes beside this one; where they wait for it, if there are any.

    What they add up depends on their number, not on where they are.
    """
    if run.workers == 1:
        yield None
        return
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with socket.create_server(("127.0.0.1", 0)) as free:
        leader: tuple[str, int] = free.getsockname()
    begun = multiprocessing.get_context("spawn")
    given = (run, leader, scratch, threads, claims, web, access)
    processes = [begun.Process(target=_take_part, args=(worker, *given)) for worker in range(1, run.workers)]
    try:
        for process in processes:
            process.start()
        yield leader
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()  # SIGTERM is blocked in them as it is here
                process.join()


def _take_part(
    worker: int,
    run: spec.Run,
    leader: tuple[str, int] | None,
    scratch: Path,
    threads: int,
    claims: Path,
    web: Web,
    access: Access,
    log: Log = lambda event, **facts: None,
) -> Output:
    """The run as one of its workers; where its bundle lies then."""
    work = scratch / f"work-{worker}"
    work.mkdir()
    output = output_at(run.output_uri, run.output_folder, claims=scratch / "again")
    train(
        run,
        output,
        scratch=work,
        threads=threads,
        log=log,
        claims=claims,
        web=web,
        access=access,
        worker=worker,
        leader=leader,
    )
    return output


def differences(sealed: Manifest, made: Manifest, passing_over: tuple[str, ...] = ()) -> Iterator[str]:
    """In words, causes before what they led to. passing_over: parts of the lineage."""
    yield from _changed("package ", sealed.lineage.get("packages", {}), made.lineage.get("packages", {}))
    yield from _changed("the trainer's ", sealed.lineage.get("code", {}), made.lineage.get("code", {}))
    rest = {"packages", "code", *passing_over}
    before, after = ({k: v for k, v in each.lineage.items() if k not in rest} for each in (sealed, made))
    yield from _changed("", before, after)
    yield from _changed("metric ", sealed.metrics, made.metrics)
    for name in sorted({*sealed.files, *made.files}):
        if name not in made.files:
            yield f"{name} was not made"
        elif sealed.files.get(name) != made.files[name]:
            yield f"{name} is another file"
    for part in ("name", "framework", "opset", "inputs", "outputs"):
        if getattr(sealed, part) != getattr(made, part):
            yield f"{part} of the manifest is another"


def _changed(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            was, now = (_short(each[name]) if name in each else "absent" for each in (before, after))
            yield f"{what}{name} was {was} and is {now}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _data_uri(uri: str, path: Path, claims: Path, web: Web, access: Access) -> str:
    """That the run noted beside its bundle. It is not sealed: data are pinned by their digest, wherever they lie."""
    credentials = access.to("output", access.mounted("output"))
    notes = parse(uri).join(NOTES)
    try:
        fetch_file(notes, path, limit=MAX_SMALL_BYTES, claims=claims, web=web, credentials=credentials)
        noted = str(notes_in(path.read_bytes())["dataUri"])
    except (BundleError, KeyError) as error:
        message = f"{uri} does not say where its data were; name them with --data"
        raise TrainingError("DataNotFound", message) from error
    return noted


def _run(uri: str, bundle: Manifest | None, data_uri: str, access: Access) -> spec.Run:
    """The run that made a bundle, and the image that it had where none is named."""
    try:
        if bundle is None:
            raise ValueError("a file")
        return spec.of(_document(bundle, data_uri, access))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"{uri} does not say how it was made; only bundles of the built-in trainers do, from this release on"
        raise TrainingError("ModelInvalid", message) from error


def _document(bundle: Manifest, data_uri: str, access: Access) -> dict[str, Any]:
    """As in `HOLDFAST_RUN`."""
    sealed = bundle.lineage
    data = {"uri": data_uri, "digest": sealed["dataDigest"]}
    data |= {"format": sealed["dataFormat"]} if "dataFormat" in sealed else {}
    data |= {"secretRef": {"name": name}} if (name := access.mounted("data")) else {}
    order = sealed.get("orderColumn")
    document = {
        "data": data,
        "target": sealed["target"],
        "task": sealed["task"],
        "features": sealed.get("features", {}),
        "preprocessing": sealed["preprocessing"],
        "split": {
            "testPercent": sealed["testPercent"],
            **({"orderColumn": order} if order else {"method": sealed["splitMethod"]}),
        },
        "estimators": [{"name": sealed["estimator"], "parameters": sealed["parameters"]}],
        "calibration": sealed["calibration"],
        "seed": sealed["seed"],
        "workers": sealed.get("workers", 1),
        "slices": sealed.get("sliceColumns", []),
        "image": sealed["code"].get("image", ""),  # a pod cannot find out its own; sources and lock file are compared
        "output": {"uri": f"pvc://again/{bundle.name}", "folder": "run"},
    }
    if (tuning := sealed.get("tuning")) and "parallelism" not in tuning:
        document["estimators"] = tuning["estimators"]
        document["tuning"] = {part: tuning[part] for part in ("trials", "metric", "folds", "sampler", "pruner")}
    return document
