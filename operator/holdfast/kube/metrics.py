"""What /metrics shows."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from holdfast.signals import metrics as signals

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
REGISTRY.register(signals.READS)
REGISTRY.register(signals.LEASES)

WRITES = Counter("holdfast_writes", "Mutating requests sent to the API server.", ["verb", "kind"], registry=REGISTRY)
REQUEST_ERRORS = Counter(
    "holdfast_request_errors",
    "Requests to the API server that failed, by HTTP status (0: no answer).",
    ["status"],
    registry=REGISTRY,
)
RECONCILES = Histogram(
    "holdfast_reconcile_seconds",
    "Duration of a pass over one custom resource.",
    ["kind"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "holdfast_reconcile_errors",
    "Passes that did not reach their end and are tried again.",
    ["kind", "error"],
    registry=REGISTRY,
)
RESYNCS = Counter("holdfast_resyncs", "Full listings of a kind.", ["kind", "cause"], registry=REGISTRY)
OBJECTS = Gauge("holdfast_objects", "Objects in the store.", ["kind"], registry=REGISTRY)
QUEUE_DEPTH = Gauge("holdfast_queue_depth", "Custom resources that wait for a pass or are in one.", registry=REGISTRY)
QUEUE_SCHEDULED = Gauge("holdfast_queue_scheduled", "Custom resources with a date for a pass.", registry=REGISTRY)
DATA_EVENTS = Counter(
    "holdfast_data_events", "Events about new data, by the HTTP status of their answer.", ["status"], registry=REGISTRY
)
LEADER = Gauge("holdfast_leader", "1 while this process leads.", registry=REGISTRY)
WATCH_AGE = Gauge(
    "holdfast_watch_age_seconds", "Since the API server last granted or fed a watch.", ["kind"], registry=REGISTRY
)
LOOP_LAG = Gauge("holdfast_event_loop_lag_seconds", "By how much the last tick came late.", registry=REGISTRY)
PROMETHEUS_ROUNDS = Counter(
    "holdfast_prometheus_rounds",
    "Rounds of questions to Prometheus: ok, or what was wrong with an answer.",
    ["outcome"],
    registry=REGISTRY,
)
