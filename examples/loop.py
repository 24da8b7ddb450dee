"""The demo's third part: a model is trained, served and watched; the world changes, and it is trained again."""

from __future__ import annotations

import json
import secrets
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import report
from steps import NAMESPACE, ROOT, StepError, kubectl, wait_for

Json = dict[str, Any]

REPORT = ROOT / ".build" / "loop.html"
WITHIN = 600.0
SMOOTHED_SECONDS = 10.0
SHOWN = ("Ready", "Progressing", "PerformanceStable", "DataStable", "Retraining")
_POLL_SECONDS = 1.0
_CURVES = {
    "psi": "max by (feature) (holdfast_model_drift_psi{{namespace='{0}',model='loans',feature!=''}})",
    "accuracy": "max by (source) (holdfast_model_accuracy_ratio{{namespace='{0}',model='loans'}})",
}


@dataclass
class Story:
    """What happened when, for the report."""

    began: float = field(default_factory=time.time)
    marks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[Json] = field(default_factory=list)
    """Of users, second by second."""

    def live_in(self, world: str) -> None:
        """Users of that world ask from now on."""
        self._keep_lines()
        self.marks.append((time.time(), world))
        _apply("users", world)
        kubectl("-n", NAMESPACE, "rollout", "status", "deploy/loans-users", "--timeout=90s")

    def start(self) -> None:
        """One object: the first model is trained, and serves."""
        key = f"--from-literal=key={secrets.token_hex(32)}"
        if not kubectl("-n", NAMESPACE, "get", "secret", "loans-feedback", "--ignore-not-found", "-o", "name"):
            kubectl("-n", NAMESPACE, "create", "secret", "generic", "loans-feedback", key)
        learn_from("before")
        kubectl("apply", "-k", "examples/loans")
        follow("it serves", lambda model: _says(model, "Ready") == "Serving")
        self.live_in("before")
        follow("enough was seen of it", lambda model: _says(model, "PerformanceStable") == "WithinTolerance")

    def change(self) -> None:
        """Loans become dearer: answers grow worse, and there are new rows to learn from."""
        before = _model()["status"]["model"]["digest"]
        self.live_in("dearer")
        follow("it is seen", lambda model: _says(model, "PerformanceStable") == "MeasuredDrop")
        learn_from("dearer")
        follow("another model serves", lambda model: model["status"]["model"]["digest"] != before)
        self.marks.append((time.time(), "promoted"))

    def move(self) -> None:
        """People grow older, on which nothing hangs."""
        model = _model()
        runs = kubectl("-n", NAMESPACE, "get", "tjob", "-o", "name")
        self.live_in("older")
        follow("it is told", lambda model: _says(model, "DataStable") in {"FeatureDrift", "DriftPersistent"})
        if kubectl("-n", NAMESPACE, "get", "tjob", "-o", "name") != runs:
            raise StepError("rows that moved without any loss have started a run")
        if _model()["status"]["model"] != model["status"]["model"]:
            raise StepError("another model serves, though no answer had grown worse")
        self._keep_lines()

    def tell(self) -> None:
        """The timeline, and the report."""
        decisions = _model()["status"].get("decisions", [])
        print("\nDecisions (kubectl describe mdep/loans shows them too):")
        for each in reversed(decisions):
            print(f"  {each['time']} {each['action']:15} {each['reason']:18} {each['message']}")
        rows, right, failed = (sum(line[name] for line in self.lines) for name in ("rows", "right", "failed"))
        print(f"\nUsers asked about {rows} people: {failed} requests failed, {100 * right / max(rows, 1):.1f} % right.")
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(self._page(decisions), encoding="utf-8")
        print(f"The whole story with curves: {REPORT.relative_to(ROOT)}", flush=True)

    def _keep_lines(self) -> None:
        logged = (
            kubectl("-n", NAMESPACE, "logs", "deploy/loans-users", "--ignore-errors").splitlines() if self.marks else []
        )
        found = (json.loads(line) for line in logged if line.startswith("{"))
        self.lines += [line for line in found if "rows" in line]

    def _page(self, decisions: list[Json]) -> str:
        shares = [(line["at"], line["right"], line["rows"]) for line in self.lines]
        answers = report.smoothed(shares, SMOOTHED_SECONDS)
        charts = (
            report.Chart("Answers", f"Share of right answers, over {SMOOTHED_SECONDS:.0f} s.", {"users": answers}),
            report.Chart(
                "Accuracy", "As the operator measures it by labels, and estimates it.", self._asked("accuracy")
            ),
            report.Chart("Drift", "Population stability index of each column.", self._asked("psi")),
        )
        text = (
            "A model is trained, served and watched; the world changes; the next one is trained, compared and promoted."
        )
        return report.page("From data to traffic and round again", text, charts, self.marks, decisions)

    def _asked(self, which: str) -> dict[str, list[tuple[float, float]]]:
        """Curves from Prometheus, by the one label that is left."""
        values = {
            "query": _CURVES[which].format(NAMESPACE),
            "start": f"{self.began:.0f}",
            "end": f"{time.time():.0f}",
            "step": "5",
        }
        path = "/api/v1/namespaces/holdfast-system/services/prometheus:9090/proxy/api/v1/query_range?"
        answer = json.loads(kubectl("get", "--raw", path + urllib.parse.urlencode(values)))
        return {
            next(iter(each["metric"].values()), which): [(float(at), float(value)) for at, value in each["values"]]
            for each in answer["data"]["result"]
        }


def learn_from(world: str) -> None:
    """Rows of that world take the place of those before."""
    kubectl("-n", NAMESPACE, "delete", "job", "loans-data", "--ignore-not-found", "--wait=true")
    _apply("data", world)
    wait_for("job/loans-data", "condition=complete", seconds=120)


def follow(what: str, reached: Callable[[Json], bool]) -> None:
    """Say what the conditions say, until `reached` is true of the ModelDeployment.

    Raises StepError when that takes longer than WITHIN.
    """
    began, said = time.monotonic(), {}
    while True:
        model = _model()
        for type_ in SHOWN:
            condition = _condition(model, type_)
            words = f"{condition.get('status')} {condition.get('reason')}"
            if condition and said.get(type_) != words:
                said[type_] = words
                message = condition["message"][:110]
                print(f"      {time.monotonic() - began:5.1f} s  {type_}: {words}: {message}", flush=True)
        if reached(model):
            return
        if time.monotonic() - began > WITHIN:
            raise StepError(f"not within {WITHIN:.0f} s: {what}\n{kubectl('-n', NAMESPACE, 'describe', 'mdep/loans')}")
        time.sleep(_POLL_SECONDS)


def _apply(part: str, world: str) -> None:
    """An example's folder, its world another one."""
    text = kubectl("kustomize", f"examples/loans/{part}")
    kubectl("apply", "-f", "-", stdin=text.replace("- before\n", f"- {world}\n"))


def _model() -> Json:
    found: Json = json.loads(kubectl("-n", NAMESPACE, "get", "mdep/loans", "-o", "json"))
    return found


def _condition(model: Json, type_: str) -> Json:
    conditions: list[Json] = model["status"].get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == type_), {})


def _says(model: Json, type_: str) -> str:
    """The reason of the condition."""
    return str(_condition(model, type_).get("reason"))
