"""`make bench-rollouts`: what a model's clients notice of 20 rollouts, of scaling, deleted and evicted pods: nothing.

Real pods on a real node, asked from a pod in the cluster over REST and gRPC: on kept connections often and now and
then, on new ones, and with slow bodies. Every answer is checked. Progress goes to standard error; the last line on
standard output is one JSON object. The exit status is 1 when a request failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.e2e import cluster
from tests.e2e.changes import delete_pod, delete_pod_without_room, evict_pod, lossless, roll_out, scale
from tests.e2e.models import start_model_server

NAME = "lossless"
started = time.monotonic()


def say(text: str) -> None:
    """A progress line, on standard error."""
    print(f"[{time.monotonic() - started:5.0f} s] {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-rollouts")
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--rate", type=float, default=300, help="requests per second")
    parser.add_argument("--requests", type=int, default=100_000, help="go on with deletions until there are so many")
    given = parser.parse_args()
    with cluster.running() as admin, cluster.namespace(admin, "bench-rollouts") as kube:
        models = start_model_server(kube)
        kube.apply(lossless(NAME, models, 2, 0))
        kube.wait_ready(NAME)
        began = time.monotonic()
        traffic = models.mixed_traffic(kube, NAME, 3600, given.rate)
        for turn in range(1, given.rollouts + 1):
            roll_out(kube, NAME, models, 2, turn)
            say(f"rollout {turn} of {given.rollouts}")
        for replicas in (1, 5, 1):
            scale(kube, NAME, replicas)
            say(f"scaled to {replicas}")
        delete_pod(kube, NAME)
        delete_pod_without_room(kube, NAME, 15)
        say("deleted the only pod, twice; the second time there was no room for another for 15 s")
        scale(kube, NAME, 2)
        turn = 0
        while (sent := traffic.requests()) < given.requests or turn < 2:
            (delete_pod, evict_pod)[turn % 2](kube, NAME)
            turn += 1
            say(f"deleted or evicted {turn} pods of two; {sent} requests")
        seconds = time.monotonic() - began
        result = traffic.finish()
    say(f"{result}")
    print(
        json.dumps(
            {
                "rollouts": given.rollouts,
                "rollouts_requests": result["requests"],
                "rollouts_failed_requests": result["failed"],
                "rollouts_sent_again": result["again"],
                "rollouts_grpc_requests": result["grpc_requests"],
                "deleted_or_evicted": turn + 2,
                "revisions_seen": len(result["versions"]),
                "seconds": round(seconds, 1),
            }
        )
    )
    return int(result["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
