"""Every query of the dashboards, against a real Prometheus that scrapes real servers as the manifests say."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import prometheus_client
import pytest
import yaml
from tests.unit.kube.test_models import STATUS, model
from tests.unit.serving import models
from tests.unit.serving.leases import KEY, TARGET, Operator, public
from tests.unit.serving.server import REVISION, Server, claim, request, until, write_bundle
from tests.unit.signals.metrics_server import prometheus, promtool, value

from holdfast.build.rules import Objective, rules
from holdfast.kube import metrics
from holdfast.kube.models import ModelCollector
from holdfast.kube.store import Store
from holdfast.plan.slo import alarms
from holdfast.signals.drift import Asked, DriftReader
from holdfast.signals.prometheus import Address, session
from holdfast.signals.slo import Model
from holdfast.stats.drift import Reference
from holdfast.stats.drift import Series as Counted
from holdfast_bundle.manifest import Tensor

ROOT = Path(__file__).parents[3] / "manifests" / "monitoring"
BODY = request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))
PROFILE = {
    "rows": 150,
    "features": {
        "sepal": {"kind": "numeric", "input": "X", "column": 0, "edges": [5.0, 6.0], "ratios": [0.2, 0.4, 0.4]}
    },
    "prediction": {"labels": [0, 1, 2], "ratios": [0.4, 0.3, 0.3]},
    "confidence": {"edges": [0.9], "ratios": [0.5, 0.5], "accuracy": [0.9, 1.0]},
}
PRICES = {"rows": 40, "absoluteError": {"edges": [2.0], "ratios": [0.75, 0.25], "means": [1.0, 4.0]}}
PRICE = request(x=("FP32", [1, 2], [1.0, 2.0]))
VALUES = {
    "$namespace": "shop",
    "$revision": REVISION,
    "$feature": "sepal",
    "$__rate_interval": "1m",
}
Json = dict[str, Any]


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "dashboards" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


def dashboards() -> dict[str, Json]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "dashboards").glob("*.json"))}


def panels() -> list[tuple[str, Json]]:
    return [(name, panel) for name, board in dashboards().items() for panel in board["panels"]]


def queries() -> list[tuple[str, str]]:
    """(where, query with its variables filled in)."""
    found = []
    for name, panel in panels():
        for target in panel.get("targets", ()):
            query = target["expr"]
            model = "price" if "absolute_error" in query else "wine"
            for variable, text in {**VALUES, "$model": model}.items():
                query = query.replace(variable, text)
            found.append((f"{name}: {panel['title']} {target['refId']}", query))
    return found


def test_the_files_are_what_the_generator_renders() -> None:
    rendered = generator().rendered()
    assert {path.name: path.read_text() for path in rendered} == {path.name: text for path, text in rendered.items()}
    assert {path.stem for path in rendered} == set(dashboards())


def test_panels_are_numbered_and_do_not_overlap() -> None:
    for board in dashboards().values():
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
        assert board["uid"]
        assert all(panel["type"] == "row" or panel["targets"] for panel in board["panels"])


def test_every_variable_of_a_query_is_one_of_its_dashboard() -> None:
    for board in dashboards().values():
        known = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"])))
        assert used - known - {"value"} == set()


def test_every_query_is_promql(tmp_path: Path) -> None:
    file = tmp_path / "queries.yaml"
    found = [{"record": f"q:{at}", "expr": query} for at, (_, query) in enumerate(queries())]
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": found}]}))
    assert f"{len(found)} rules found" in promtool("check", "rules", str(file))


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has scraped two revisions of a model in the middle of a rollout, another model, which predicts
    numbers, the operator, and rules."""
    folder = tmp_path_factory.mktemp("monitoring")
    with (
        served(folder / "stable", REVISION) as stable,
        served(folder / "other", TARGET) as other,
        predicting(folder / "price") as price,
    ):
        httpd, thread = prometheus_client.start_http_server(0, "127.0.0.1", operator_registry())
        lease = Operator(stable, f"127.0.0.1:{other.port}")
        pods = [(stable, "wine", REVISION), (other, "wine", TARGET), (price, "price", REVISION)]
        configuration = scraping(folder, pods, httpd.server_port)
        try:
            with prometheus(folder, configuration=configuration) as url:
                ends = time.monotonic() + 12
                while time.monotonic() < ends:
                    for mode in ("shadow", "share"):
                        lease.grant(mode, **({"weight": 0.5} if mode == "share" else {}))
                        for _ in range(20):
                            assert stable.infer(BODY).status_code == 200
                    for server, body in ((stable, BODY), (price, PRICE)):
                        said = server.infer(body | {"parameters": {"receipt": True}}).json()["parameters"]
                        labelled = {"feedback": [{"receipt": said["receipt"], "labels": [0]}]}
                        httpx.post(
                            f"{server.url}/v2/models/wine/feedback", json=labelled, timeout=60
                        ).raise_for_status()
                    stable.infer({"inputs": []})
                    metrics.PROMETHEUS_ROUNDS.labels("ok").inc()
                    time.sleep(0.2)
                yield url
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join()


def predicting(folder: Path) -> Server:
    """It predicts a number."""
    tensors = {"inputs": [Tensor("x", "FP32", (-1, -1))], "outputs": [Tensor("y", "FP32", (-1,))]}
    return served(folder, REVISION, models.row_sums(), PRICES, **tensors)


def served(
    folder: Path, revision: str, content: bytes | None = None, profile: Json = PROFILE, **tensors: Any
) -> Server:
    bundle = claim(folder) / "iris"
    bundle.mkdir(parents=True)
    (bundle / "profile.json").write_text(json.dumps(profile))
    digest = write_bundle(bundle, content or models.iris(), **tensors)
    (folder / "feedback" / "wine").mkdir(parents=True)
    (folder / "feedback" / "wine" / "key").write_text("0123456789abcdef" * 4)
    variables = {
        "HOLDFAST_ROUTER_PUBLIC_KEYS": public(KEY),
        "HOLDFAST_REVISION": revision,
        "HOLDFAST_FEEDBACK_SECRET": "wine",
    }
    server = Server(folder, "pvc://models/iris", digest, "--feedback", str(folder / "feedback"), **variables)
    until(server.ready, "readiness")
    return server


def operator_registry() -> prometheus_client.CollectorRegistry:
    """The operator's own, of a process that leads, with a rollout and a model that is in trouble."""
    store = Store()
    store.put(model("wine", STATUS))
    trouble = {"Ready": "FastBurn", "SLOHealthy": "FastBurn", "DataStable": "FeatureDrift"}
    conditions = [{"type": type_, "status": "False", "reason": reason} for type_, reason in trouble.items()]
    store.put(model("iris", {"conditions": conditions}))
    store.put(model("price", {"performance": {"metric": "MAE", "rows": 9, "baseline": "1.75", "measured": "3"}}))
    metrics.REGISTRY.register(ModelCollector(store))
    metrics.LEADER.set(1)
    metrics.WATCH_AGE.labels("Job").set(1)
    metrics.RECONCILES.labels("ModelDeployment").observe(0.1)
    metrics.RECONCILE_ERRORS.labels("ModelDeployment", "Conflict").inc()
    metrics.WRITES.labels("apply", "Service").inc()
    return metrics.REGISTRY


def scraping(folder: Path, pods: list[tuple[Server, str, str]], operator_port: int) -> Json:
    """The configuration of the manifests, with addresses in place of Kubernetes, and quicker."""
    configuration: Json = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in configuration["scrape_configs"]:
        del job["kubernetes_sd_configs"], job["relabel_configs"]
    of_models, of_operator = configuration["scrape_configs"]
    of_models["static_configs"] = [
        {
            "targets": [f"127.0.0.1:{server.management_port}"],
            "labels": {"namespace": "shop", "pod": f"{name}-{revision}", "model": name, "revision": revision},
        }
        for server, name, revision in pods
    ]
    of_operator["static_configs"] = [
        {"targets": [f"127.0.0.1:{operator_port}"], "labels": {"namespace": "holdfast-system", "pod": "operator-0"}}
    ]
    objectives = (Objective("availability", 0.001), Objective("latency", 0.01, 50))
    made = rules("wine", "shop", "uid-1", objectives, alarms(7), 7, custom_resource=True)["spec"]
    for group in made["groups"]:
        group["interval"] = "1s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(made))
    return {**configuration, "rule_files": [str(folder / "rules.yaml")]}


@pytest.mark.parametrize(("where", "query"), queries(), ids=[where for where, _ in queries()])
def test_every_query_has_an_answer(scraped: str, where: str, query: str) -> None:
    end = time.monotonic() + 60
    while not (found := value(scraped, query)):
        assert time.monotonic() < end, f"{where}: {query}"
        time.sleep(0.5)
    assert all("exported" not in name for sample in found for name in sample["metric"])


def test_who_a_sample_is_about_is_not_for_the_pod_to_say(scraped: str) -> None:
    samples = value(scraped, '{__name__=~"holdfast_(inference|router|model)_.+", job="holdfast-models"}')
    assert {sample["metric"]["model"] for sample in samples} == {"wine", "price"}
    assert {sample["metric"]["revision"] for sample in samples} == {REVISION, TARGET}
    assert not [name for sample in samples for name in sample["metric"] if name.startswith("exported_")]


def test_the_router_s_counts_of_two_revisions_stay_apart(scraped: str) -> None:
    samples = value(scraped, f'holdfast_router_drawn_total{{model="wine", revision="{REVISION}"}}')
    of = {sample["metric"]["arm"]: sample["metric"]["counted_revision"] for sample in samples}
    assert of == {"local": REVISION, "target": TARGET}


def test_the_operator_s_word_about_models_is_kept(scraped: str) -> None:
    [sample] = value(scraped, 'holdfast_rollout_weight_ratio{namespace="shop", model="wine"}')
    assert sample["metric"]["pod"] == "operator-0"
    assert float(sample["value"][1]) == 0.1


async def test_what_is_asked_about_rows_is_what_pods_tell(scraped: str) -> None:
    """From the counters of real pods to what drift and accuracy are judged by."""
    wanted = [Asked(Model("shop", "wine"), revision) for revision in (REVISION, TARGET)]
    number = Asked(Model("shop", "price"), REVISION)
    reader = DriftReader(60)
    async with session(Address(scraped)) as questions:
        seen = await reader.seen(questions)
        now = replace(seen, end=int(time.time()))  # the last whole minute may be older than the pods
        found = {asked: signal async for asked, signal in reader.read(questions, [*wanted, number], now)}
    assert seen.profiles == dict.fromkeys([*wanted, number], "complete")
    price = found.pop(number)
    assert price
    assert price.errors
    assert price.errors.reference == Reference({"0": 0.75, "1": 0.25, "missing": 0.0}, 40)
    assert price.mean_errors == {"0": 1.0, "1": 4.0}
    assert rows_of(price.errors) == rows_of(price.errors, "1") > 0  # all of them are 3
    for asked in wanted:
        signal = found[asked]
        assert signal
        assert signal.prediction
        assert signal.confidence
        assert signal.accuracy == {"0": 0.9, "1": 1.0}
        sepal = signal.features["sepal"]
        assert sepal.reference == Reference({"0": 0.2, "1": 0.4, "2": 0.4, "missing": 0.0}, 150)
        rows, fallen = rows_of(sepal), rows_of(sepal, "1")
        assert rows == fallen > 0  # all of them are 5.1 long
        assert rows_of(signal.prediction) == pytest.approx(rows)
        assert rows_of(signal.confidence) == pytest.approx(rows)
    assert sum(each.right + each.wrong for signal in found.values() if signal for each in signal.labels) > 0


def rows_of(series: Counted, bin_: str | None = None) -> float:
    """Of all its windows."""
    return sum(count for window in series.windows for name, count in window.items() if bin_ in (None, name))
