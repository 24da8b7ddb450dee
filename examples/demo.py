"""`make demo`: from a machine with nothing to a trained and served model on a real Kubernetes.

Every step is safe to repeat, so after a failure `make demo` goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import loop
import rollouts
from steps import NAMESPACE, ROOT, StepError, devcluster, indent, kubectl, run, wait_for

from holdfast_devcluster import binaries

KUBECTL_IS_INSTALLED = shutil.which("kubectl") is not None
SYSTEM = "holdfast-system"
OPERATOR = "app.kubernetes.io/name=holdfast-operator"


@dataclass
class Demo:
    """The steps in order, with a line and a time for each."""

    started: float = field(default_factory=time.monotonic)

    def step(self, title: str, action: Callable[[], None]) -> None:
        """Do one step; on failure say what failed and how to go on, and end the program with 1."""
        print(f"[{time.monotonic() - self.started:5.0f} s] {title}", flush=True)
        try:
            action()
        except StepError as error:
            print(f"\nThe step failed: {title}\n{error}\n", file=sys.stderr)
            print(
                "Mend the cause and run `make demo` again: it goes on from here. To look around:\n"
                f"  {use_cluster_hint()}\n  kubectl -n holdfast-system logs deploy/holdfast-operator\n"
                "To start over: make demo-down",
                file=sys.stderr,
            )
            sys.exit(1)

    def up(self) -> None:
        """The whole demo."""
        self.step("cluster", start_cluster)
        self.step("images: operator, serving, training, Prometheus", load_images)
        self.step("operator and Prometheus: kubectl apply -k examples/cluster", install_operator)
        self.step("data: kubectl apply -k examples/wine/data", provide_data)
        self.step("examples: kubectl apply -k examples/wine", lambda: kubectl_apply("examples/wine"))
        self.step("training: waiting for TrainingJob wine", lambda: wait_for("tjob/wine", "condition=Succeeded"))
        self.step("serving: waiting for ModelDeployment wine", lambda: wait_for("mdep/wine", "condition=Ready"))
        self.step("requests: a client pod asks the Service http://wine", ask)
        self.step("users: 50 requests per second from now on; bad versions to try on them", rollouts.make_versions)
        self.step("a better model: shadowed, tried on a quarter of the requests, promoted", rollouts.promote_better)
        for version, fault in rollouts.BAD:
            self.step(f"a bad version: {fault}", partial(rollouts.take_back, version))
        self.step("back to the better model, as git revert would do", rollouts.revert)
        show()
        rollouts.show_users()
        story = loop.Story()
        self.step("the loop: one object trains its first model, serves it and watches it", story.start)
        self.step("the world changes: it grows worse, is trained again, compared, tried and promoted", story.change)
        self.step("rows move without any loss: a notice, and nothing else", story.move)
        story.tell()
        print(f"\nDone in {time.monotonic() - self.started:.0f} s.")


def use_cluster_hint() -> str:
    """What a person types so that kubectl talks to the demo's cluster."""
    return f'export KUBECONFIG="$({Path(sys.executable).relative_to(ROOT)} -m holdfast_devcluster kubeconfig)"'


def start_cluster() -> None:
    devcluster("up")
    path = run(sys.executable, "-m", "holdfast_devcluster", "kubeconfig").strip().splitlines()[-1]
    os.environ["KUBECONFIG"] = path
    os.environ["PATH"] += f":{binaries.kubectl().parent}"  # where there is none but the one built for the cluster


def load_images() -> None:
    devcluster("build-image", "all")
    loaded = run(sys.executable, "-m", "holdfast_devcluster", "load-image", "all")
    print(indent(loaded), flush=True)
    if "loading image operator" in loaded and kubectl("get", "deploy", "-A", "-l", OPERATOR, "-o", "name"):
        # The tag stays `dev`, so Kubernetes cannot see that there is a newer operator.
        kubectl("-n", SYSTEM, "rollout", "restart", "deploy/holdfast-operator")


def kubectl_apply(folder: str) -> None:
    kubectl("apply", "-k", folder)


def install_operator() -> None:
    kubectl_apply("examples/cluster")
    kubectl(
        "wait",
        "--for=condition=Established",
        "crd/modeldeployments.holdfast.dev",
        "crd/trainingjobs.holdfast.dev",
        "crd/batchinferences.holdfast.dev",
    )
    kubectl(
        "-n",
        "holdfast-system",
        "rollout",
        "status",
        "deploy/holdfast-operator",
        "--timeout=180s",
        timeout=200,
    )


def provide_data() -> None:
    kubectl_apply("examples/wine/data")
    wait_for("job/wine-dataset", "condition=complete", seconds=120)


def ask() -> None:
    kubectl("-n", NAMESPACE, "delete", "job", "wine-client", "--ignore-not-found", "--wait=true")
    kubectl_apply("examples/wine/client")
    try:
        wait_for("job/wine-client", "condition=complete", seconds=60)
    finally:
        print(indent(kubectl("-n", NAMESPACE, "logs", "job/wine-client", "--tail=40")), flush=True)


def show() -> None:
    """What a platform engineer would look at, and what to try next."""
    for arguments in (("get", "tjob,mdep"), ("describe", "mdep/wine")):
        print(f"\n$ kubectl -n {NAMESPACE} {' '.join(arguments)}")
        print(kubectl("-n", NAMESPACE, *arguments).rstrip())
    print(
        f"""
What to try next:
  {use_cluster_hint()}
  kubectl -n {NAMESPACE} scale mdep/wine --replicas=3
  kubectl -n {NAMESPACE} get mdep wine -o wide --watch
  kubectl -n {NAMESPACE} port-forward svc/wine 8080:80 &
  curl http://127.0.0.1:8080/v2/models/wine
  docs/modeldeployment.md and docs/trainingjob.md: every field, every condition
  make demo-down: leaves nothing behind"""
    )


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["up"]:
            Demo().up()
        case ["down"]:
            devcluster("down")
        case _:
            sys.exit("usage: demo.py up|down")


if __name__ == "__main__":
    main(sys.argv[1:])
