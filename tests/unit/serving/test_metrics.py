from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.serving import models
from tests.unit.serving.server import serving

from holdfast_serving.metrics import GRPC, LATENCY_EDGES, Histogram, Metrics, exposition, families
from holdfast_serving.pod import Families


def test_a_value_on_an_edge_counts_below_it() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.5, 1.0, 1.5, 2.0, 5.0, 5.1):
        histogram.observe(value)
    assert histogram.buckets() == [("1", 2), ("2", 4), ("5", 5), ("+Inf", 6)]
    assert histogram.sum == 15.1


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.9, 1.0], [0.5, 1.5, 9.0], [2.0, 2.0, 2.1]])
def test_values_are_counted_together_as_one_by_one(values: list[float]) -> None:
    one_by_one, together = Histogram((1.0, 2.0, 5.0)), Histogram((1.0, 2.0, 5.0))
    for value in values:
        one_by_one.observe(value)
    together.observe_all(values)
    assert (together.counts, together.sum) == (one_by_one.counts, one_by_one.sum)


def test_the_edges_are_those_that_an_slo_may_name() -> None:
    assert [round(edge * 1000) for edge in LATENCY_EDGES] == [
        1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500, 2000, 3000,
        5000, 7500, 10000, 15000, 30000, 60000,
    ]  # fmt: skip


def test_prometheus_can_read_all_of_it() -> None:
    metrics = Metrics('wi"ne', "5f3a9c0d1e")
    metrics.requests[GRPC].answered([0.004], 0)
    metrics.info = {"digest": "sha256:0"}
    text, kind = exposition(Families(families(metrics), []))
    assert kind.startswith("text/plain")
    found = {family.name: family for family in text_string_to_metric_families(text.decode())}
    labels = {"model": 'wi"ne', "revision": "5f3a9c0d1e"}
    for name, family in found.items():
        if name.startswith("holdfast_"):
            assert all(sample.labels | labels == sample.labels for sample in family.samples), name
    buckets = {
        sample.labels["le"]: sample.value
        for sample in found["holdfast_inference_duration_seconds"].samples
        if sample.name.endswith("_bucket") and sample.labels["protocol"] == "grpc"
    }
    assert (buckets["0.003"], buckets["0.005"], buckets["+Inf"]) == (0, 1, 1)
    assert "process_resident_memory_bytes" in found


def test_the_load_time_is_told_by_its_phases(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris()) as server:
        phases = [
            server.metric("holdfast_model_load_phase_seconds", phase=phase)
            for phase in ("fetch", "check", "probe", "load", "golden", "batching", "warm")
        ]
        assert min(phases) >= 0
        assert sum(phases) > 0.01  # the probe alone starts a process
        assert sum(phases) < server.metric("holdfast_model_load_seconds")
