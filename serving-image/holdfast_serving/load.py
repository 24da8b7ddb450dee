"""From a URI to a model that may be served: fetched, verified, tried, warm."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_bundle import manifest
from holdfast_bundle.cache import Cache
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.fetch import fetch_model
from holdfast_bundle.onnx_safety import check_external_data
from holdfast_bundle.progress import ToldProgress
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.verify import verify
from holdfast_bundle.web import Web
from holdfast_serving import example, golden, profile, rows, session, topology
from holdfast_serving.batching import BATCH_SECONDS
from holdfast_serving.codec import RestCodec
from holdfast_serving.cost import Cost
from holdfast_serving.golden import Kept
from holdfast_serving.probe import probe
from holdfast_serving.profile import Profile
from holdfast_serving.session import Model
from holdfast_serving.topology import Topology

log = logging.getLogger(__name__)

_PRODUCTION = Web()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model's files in this pod, verified and safe to give to the runtime.

    Attributes:
        folder: the bundle, or the folder around a bare file.
        model: the ONNX file.
        bundle: its manifest; None for a bare file.
        size: bytes of all files.
        seconds: that each phase took.
    """

    folder: Path
    model: Path
    digest: str
    bundle: manifest.Manifest | None
    size: int
    seconds: dict[str, float]


def fetch(
    uri: str,
    folder: Path,
    digest: str | None,
    *,
    claims: Path = CLAIMS,
    web: Web = _PRODUCTION,
    credentials: Credentials = NOBODY,
    cache: str = "",
    tell: Callable[[str], None] | None = None,
) -> Fetched:
    """Bring a model into `folder` and refuse what must not reach the runtime.

    Args:
        digest: that it must have; None to find out.
        cache: claim that keeps models by digest; empty for none.
        tell: hears in words how far it is.

    Raises:
        BundleError: any reason.
    """
    laps = _Laps()

    def bring() -> Path:
        progress = ToldProgress(uri.partition("?")[0], tell)
        return fetch_model(uri, folder, progress=progress, web=web, claims=claims, credentials=credentials)

    if cache:
        path, found = Cache(cache, claims).fetch(digest, folder, bring)
    else:
        path = bring()
        found = verify(path, digest)
    laps.end("fetch")
    bundle = manifest.read(path) if path.is_dir() else None
    model = path / manifest.MODEL if bundle else path
    check_external_data(model, folder)
    laps.end("check")
    probe(model)
    laps.end("probe")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Fetched(folder, model, found, bundle, size, laps.seconds)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A warm model and all that is known about how to run it.

    Attributes:
        profile: of the bundle; None where there is none.
        apart: why its rows may not share a run; None when they may.
        cost: measured just now.
        topology: how it uses the pod's CPUs.
        seconds: that each phase took.
        example: inputs of a request as JSON has them; None where it cannot.
        golden: requests of the bundle with this model's answers.
    """

    model: Model
    codec: RestCodec
    cost: Cost
    topology: Topology
    profile: Profile | None
    apart: str | None
    seconds: dict[str, float]
    example: list[dict[str, Any]] | None
    golden: list[Kept]

    def metadata(self, name: str, revision: str, max_rows: int) -> dict[str, Any]:
        """The model's metadata in V2, with what was found out about batching as parameters.

        Args:
            max_rows: of different requests in one run.
        """
        signature = self.model.signature
        parameters: dict[str, Any] = {"batching": self.apart is None}
        topology = self.topology
        parameters |= {
            "threads": topology.threads,
            "parallel_runs": topology.runs,
            "processes": topology.processes,
        }
        if self.apart is None:
            parameters["max_batch_rows"] = max_rows
        else:
            parameters["batching_reason"] = self.apart
        return {
            "name": name,
            "versions": [revision],
            "platform": "onnx_onnxv1",
            "inputs": [_described(tensor) for tensor in signature.inputs],
            "outputs": [_described(tensor) for tensor in signature.outputs],
            "parameters": parameters,
        }


def load(fetched: Fetched, name: str, revision: str, cpus: int, max_batch_rows: int | None = None) -> Loaded:
    """Load a fetched model, hold it to its manifest and golden requests, and find out how to run it.

    Args:
        cpus: that the model may use.
        max_batch_rows: 1 for no batching, whatever the model would allow.

    Raises:
        BundleError: `Invalid`.
    """
    laps = _Laps()
    model = session.load(fetched.model, topology.threads_to_begin_with(fetched.model, cpus))
    laps.end("load")
    if fetched.bundle is not None:
        model.signature = model.signature.with_manifest(fetched.bundle)
    codec = RestCodec(model.signature, name, revision)
    checked = golden.check(model, codec, fetched.folder) if fetched.bundle is not None else golden.Checked()
    samples = checked.rows
    laps.end("golden")
    unwanted = "its deployment asks for no batching" if max_batch_rows == 1 else None
    apart = unwanted or rows.why_apart(model, fetched.model, samples)
    codec.same_rows = apart is None
    laps.end("batching")
    if apart is None:
        model.signature = model.signature.with_rows()
    else:
        log.info("requests are not batched for this model: %s", apart)
    found = profile.read(fetched.folder, model.signature) if fetched.bundle is not None else None
    for finding in found.findings if found else ():
        log.warning("profile: %s", finding)
    row = samples[0] if samples else rows.made_up(model.signature, 1)[0]
    cost = _measure(model, row, joins=apart is None)
    laps.end("warm")
    chosen = Topology()
    if cpus > 1:
        tried = model
        model, chosen = topology.choose(model, fetched.model, row, cost.base + cost.per_row, cpus)
        laps.end("topology")
        if model is not tried:
            if fetched.bundle is not None:
                checked = golden.check(model, codec, fetched.folder)
            cost = _measure(model, row, joins=apart is None)
            laps.end("warm")
    inputs = example.inputs(model.signature, samples)
    return Loaded(model, codec, cost, chosen, found, apart, laps.seconds, inputs, checked.kept)


def again(
    folder: Path,
    file: Path,
    name: str,
    revision: str,
    *,
    is_bundle: bool,
    cost: Cost,
    topology: Topology,
    apart: str | None,
    example: list[dict[str, Any]] | None,
) -> Loaded:
    """Load what another process of this pod has fetched, verified and tried: that is not done again.

    That one also keeps the golden requests, of which a pod puts each only once.

    Args:
        folder, file: the bundle, or the folder around a bare file, and the ONNX file.
        cost, topology, apart, example: as `Loaded` has them there.
    """
    model = session.load(file, topology.threads)
    if is_bundle:
        model.signature = model.signature.with_manifest(manifest.read(folder))
    codec = RestCodec(model.signature, name, revision)
    codec.same_rows = apart is None
    if apart is None:
        model.signature = model.signature.with_rows()
    found = profile.read(folder, model.signature) if is_bundle else None
    with contextlib.suppress(Exception):  # made-up values are not for every model
        model.run(rows.made_up(model.signature, 1)[0])
    return Loaded(model, codec, cost, topology, found, apart, {}, example, [])


class _Laps:
    """Seconds of phases that follow each other; one can come twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def end(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._began
        self._began = now


def _measure(model: Model, row: rows.Row, *, joins: bool) -> Cost:
    """Run until warm, and take the time of one row and of many, where a model takes many at all."""
    try:
        one = _best_time(model, row)
    except Exception:  # made-up values are not for every model: be careful with this one
        return Cost(1.0, 0.0)
    if not model.signature.has_rows or (not joins and one > BATCH_SECONDS):
        return Cost(one, 0.0)
    count = 32
    try:
        many = _best_time(model, {name: values.repeat(count, axis=0) for name, values in row.items()})
    except Exception:
        if joins:
            raise
        return Cost(one, 0.0)
    per_row = max(many - one, 0.0) / (count - 1)
    return Cost(max(one - per_row, 0.0), per_row)


def _best_time(model: Model, feeds: rows.Row) -> float:
    """Seconds of the fastest of some runs; few of them when they are long."""
    best, spent = float("inf"), 0.0
    for _ in range(20):
        started = time.perf_counter()
        model.run(feeds)
        took = time.perf_counter() - started
        best, spent = min(best, took), spent + took
        if spent > 0.5:
            break
    return best


def _described(tensor: manifest.Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
