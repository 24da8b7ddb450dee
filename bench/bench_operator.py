"""`make bench-operator`: the operator with 1,000 ModelDeployments on KWOK nodes, against a bare client in the same run.

The floor is what a client that only sends requests (16 in flight) needs on a fresh control plane to create the same
ModelDeployments, apply the same children and write one status each. Digests are given, so no resolve Jobs are
measured. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from bare_client import PATHS, BareClient, JsonObject, in_flight

from holdfast.plan import modeldeployment
from holdfast.plan.observed import Apply, Metadata, Observed, Settings
from holdfast_devcluster import control_plane, ports
from holdfast_devcluster.controlplane import ControlPlane

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "default"
SYSTEM = "holdfast-system"
MODELS = PATHS["ModelDeployment"].format(NAMESPACE)
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/holdfast-operator"
DIGEST = "sha256:" + "0" * 64
IMAGES = {
    "HOLDFAST_SERVING_IMAGE": "localhost/holdfast-serving:dev",
    "HOLDFAST_TRAINING_IMAGE": "localhost/holdfast-training:dev",
}
started = time.monotonic()


def say(text: str) -> None:
    """A progress line, on standard error."""
    print(f"[{time.monotonic() - started:5.0f} s] {text}", file=sys.stderr, flush=True)


def model(number: int) -> JsonObject:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": f"model-{number:04}", "namespace": NAMESPACE},
        "spec": {"model": {"uri": "https://models.example.com/wine.onnx", "digest": DIGEST}},
    }


@contextmanager
def fresh_cluster() -> Iterator[ControlPlane]:
    """A control plane with fake nodes, our CRDs and the operator's own RBAC."""
    with control_plane(kwok=True, nodes=10, report=lambda *_: None) as plane:
        rendered = plane.kubectl("kustomize", str(ROOT / "manifests/base"))
        documents = [d for d in yaml.safe_load_all(rendered) if d["kind"] != "Deployment"]
        plane.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(documents))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield plane


def bare(plane: ControlPlane) -> BareClient:
    return BareClient(plane.server, plane.certificate_authority, plane.client.certificate, plane.client.key)


def children_and_status(manifest: JsonObject) -> tuple[list[JsonObject], JsonObject]:
    """What the operator would write for a new ModelDeployment: its children, and one status."""
    spec = {**manifest["spec"], "serving": {"replicas": 1}}
    plan = modeldeployment.plan(
        Observed(
            now=datetime.now(UTC),
            settings=Settings(IMAGES["HOLDFAST_SERVING_IMAGE"], IMAGES["HOLDFAST_TRAINING_IMAGE"]),
            metadata=Metadata(manifest["metadata"]["name"], NAMESPACE, "0" * 36, 1),
            spec=spec,
            status={},
        )
    )
    children = [json.loads(json.dumps(w.manifest)) for w in plan.writes if isinstance(w, Apply)]
    return children, json.loads(json.dumps(plan.status))


async def measure_floor(count: int) -> float:
    """Seconds that a bare client needs for all creations, applies and statuses."""
    with fresh_cluster() as plane:
        async with bare(plane) as client:
            prepared = [(manifest, *children_and_status(manifest)) for manifest in map(model, range(count))]
            kinds = [child["kind"] for child in prepared[0][1]]
            say(
                f"floor: a bare client creates {count} ModelDeployments, applies {' and '.join(kinds)}, writes a status"
            )

            async def one(item: tuple[JsonObject, list[JsonObject], JsonObject]) -> None:
                manifest, children, status = item
                owner = await client.create(manifest)
                for child in children:
                    child = copy.copy(child)
                    child["metadata"] = copy.deepcopy(child["metadata"])
                    child["metadata"]["ownerReferences"][0]["uid"] = owner["metadata"]["uid"]
                    await client.apply(child)
                await client.merge(f"{MODELS}/{owner['metadata']['name']}/status", {"status": status})

            begin = time.monotonic()
            await in_flight(prepared, one)
            return time.monotonic() - begin


@dataclass
class Operator:
    """The real operator, as a process with the rights of its ServiceAccount."""

    process: subprocess.Popen[bytes]
    port: int
    name: str

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            return str(response.read().decode())

    def writes(self) -> dict[str, float]:
        """Mutations sent so far, by "verb kind"."""
        counts: dict[str, float] = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith("holdfast_writes_total{"):
                labels, value = line.removeprefix("holdfast_writes_total{").split("} ")
                pairs = dict(pair.split("=", 1) for pair in labels.split(","))
                key = f"{pairs['verb']} {pairs['kind']}".replace('"', "")
                counts[key] = counts.get(key, 0) + float(value)
        return counts

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    async def until(self, what: str, test: Callable[[Operator], bool], seconds: float = 60) -> float:
        """Seconds until the test holds. Raises RuntimeError when it never does."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"operator {self.name} ended with {self.process.returncode}")
            with contextlib.suppress(OSError):
                if test(self):
                    return time.monotonic() - begin
            await asyncio.sleep(0.02)
        raise RuntimeError(f"operator {self.name}: waited {seconds} s until {what}")


@contextmanager
def operator(plane: ControlPlane, name: str) -> Iterator[Operator]:
    """Start the operator; end it at the end if it still runs."""
    [port] = ports.free()
    account = f"system:serviceaccount:{SYSTEM}:holdfast-operator"
    kubeconfig = plane.kubeconfig_for(account, ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}"])
    environment = {
        **os.environ,
        **IMAGES,
        "KUBECONFIG": str(kubeconfig),
        "POD_NAME": name,
        "POD_NAMESPACE": SYSTEM,
        "HOLDFAST_HEALTH_PORT": str(port),
    }
    with (plane.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "holdfast"], env=environment, stdout=log, stderr=log)
    try:
        yield Operator(process, port, name)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def synced(instance: Operator) -> bool:
    """Leading, resynced, and nothing left in the queue."""
    health = json.loads(instance.get("/healthz"))
    return bool(health["leader"] and health["synced"] and health["queue"] == 0)


def is_available(item: JsonObject) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(c["type"] == "Available" and c["status"] == "True" for c in conditions)


async def create_all(client: BareClient, count: int) -> float:
    """Seconds from the first creation until all are Available."""
    begin = time.monotonic()
    available: set[str] = set()

    async def watch() -> None:
        async for event in client.watch(MODELS):
            if is_available(event["object"]):
                available.add(event["object"]["metadata"]["name"])
                if len(available) % 250 == 0:
                    say(f"  {len(available)} available after {time.monotonic() - begin:.1f} s")
                if len(available) == count:
                    return

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(watch())
        await in_flight(map(model, range(count)), client.create)
        await asyncio.wait_for(watcher, timeout=900)
    return time.monotonic() - begin


@asynccontextmanager
async def deployment_events(client: BareClient) -> AsyncIterator[asyncio.Queue[tuple[float, JsonObject]]]:
    """Changes of Deployments with the time at which they were seen."""
    queue: asyncio.Queue[tuple[float, JsonObject]] = asyncio.Queue()

    async def pump() -> None:
        async for event in client.watch(PATHS["Deployment"].format(NAMESPACE)):
            queue.put_nowait((time.monotonic(), event["object"]))

    task = asyncio.create_task(pump())
    try:
        yield queue
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def spec_changes(client: BareClient, count: int, changes: int, seed: int) -> list[float]:
    """Milliseconds from the answer to a change of spec until its child was seen changed, for random models."""
    chosen = random.Random(seed).sample(range(count), changes)
    taken: list[float] = []
    async with deployment_events(client) as events:
        await asyncio.sleep(3)  # let the initial list pass; only later events are looked at
        for number in chosen:
            while not events.empty():
                events.get_nowait()
            name = model(number)["metadata"]["name"]
            await client.merge(f"{MODELS}/{name}", {"spec": {"serving": {"replicas": 2}}})
            begin = time.monotonic()
            while True:
                seen, child = await asyncio.wait_for(events.get(), timeout=30)
                labels = child["metadata"].get("labels", {})
                if labels.get("holdfast.dev/model-deployment") == name and child["spec"]["replicas"] == 2:
                    taken.append((seen - begin) * 1000)
                    break
    return taken


async def takeover(plane: ControlPlane, sign: signal.Signals, trials: int) -> list[float]:
    """Seconds from the leader's end until the standby holds the Lease and leads, for each trial."""
    taken = []
    for trial in range(trials):
        with operator(plane, f"leader-{sign.name.lower()}-{trial}") as first:
            await first.until("it leads", synced)
            with operator(plane, f"standby-{sign.name.lower()}-{trial}") as second:
                await second.until("it stands by", lambda o: not json.loads(o.get("/healthz"))["leader"])
                # The standby must have seen a renewal, as it would have in any life longer than the demo's.
                await asyncio.sleep(random.Random(trial).uniform(2, 5))
                begin = time.monotonic()
                first.process.send_signal(sign)
                await second.until("it leads", lambda o: bool(json.loads(o.get("/healthz"))["leader"]))
                taken.append(time.monotonic() - begin)
                say(f"  {sign.name}: {taken[-1]:.1f} s")
    return taken


async def main(count: int, steady_seconds: float, trials: int, changes: int, seed: int) -> JsonObject:
    """All figures of the issue, in its keys."""
    figures: JsonObject = {"count": count}
    figures["floor_1000_s"] = await measure_floor(count)
    say(f"floor: {figures['floor_1000_s']:.1f} s")
    with fresh_cluster() as plane:
        async with bare(plane) as client:
            with operator(plane, "bench") as instance:
                await instance.until("it leads", synced)
                before = instance.writes()
                say(f"create: {count} ModelDeployments, the operator leading")
                figures["create_1000_available_s"] = await create_all(client, count)
                say(f"create: all available after {figures['create_1000_available_s']:.1f} s")
                await instance.until("the queue is empty", synced)
                await asyncio.sleep(5)
                after = instance.writes()
                by_kind = {key: value - before.get(key, 0) for key, value in sorted(after.items())}
                figures["writes_by_kind"] = by_kind
                children = sum(by_kind.get(f"apply {kind}", 0) for kind in ("Deployment", "Service"))
                leases = sum(value for key, value in by_kind.items() if key.endswith(" Lease"))
                creations = min(children, 2 * count)
                figures["writes_per_create"] = (sum(by_kind.values()) - creations - leases) / count
                say(f"writes: {by_kind}")

                say(f"steady: {steady_seconds:.0f} s without a change")
                before = instance.writes()
                await asyncio.sleep(steady_seconds)
                figures["steady_writes"] = writes_between(before, instance.writes())
                figures["rss_mib"] = instance.rss_mib()
                say(f"steady: {figures['steady_writes']:.0f} writes, {figures['rss_mib']:.0f} MiB resident")
                instance.process.terminate()
                instance.process.wait(60)

            say("restart")
            with operator(plane, "bench-restarted") as instance:
                figures["restart_resync_s"] = await instance.until("it is resynced", synced, 120)
                await asyncio.sleep(10)
                figures["restart_writes"] = writes_between({}, instance.writes())
                figures["restart_rss_mib"] = instance.rss_mib()
                say(f"restart: {figures['restart_resync_s']:.1f} s, {figures['restart_writes']:.0f} writes")

                times = await spec_changes(client, count, changes, seed)
                figures["spec_change_p50_ms"] = statistics.median(times)
                figures["spec_change_p99_ms"] = statistics.quantiles(times, n=100)[98]
                say(f"spec change: p99 {figures['spec_change_p99_ms']:.0f} ms")
                instance.process.terminate()
                instance.process.wait(60)

        say(f"takeover: {trials} leaders killed, {trials} stopped politely")
        killed = await takeover(plane, signal.SIGKILL, trials)
        stopped = await takeover(plane, signal.SIGTERM, trials)
        figures |= {"takeover_kill_s": max(killed), "takeover_term_s": max(stopped)}
        figures |= {"takeover_kill_all_s": killed, "takeover_term_all_s": stopped}
    return figures


def writes_between(before: dict[str, float], after: dict[str, float]) -> float:
    """Mutations but the Lease's, which is renewed for ever."""
    return sum(value - before.get(key, 0) for key, value in after.items() if not key.endswith(" Lease"))


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--steady-seconds", type=float, default=300)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = asyncio.run(main(options.count, options.steady_seconds, options.trials, options.changes, options.seed))
    print(json.dumps({key: rounded(value) for key, value in result.items()}))
