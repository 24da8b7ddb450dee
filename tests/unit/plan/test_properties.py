"""What holds whatever happens: users who change their minds, pods that come and go, crashes between any two writes."""

import json
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.plan import worlds
from tests.unit.plan.world import World

from holdfast.api.modeldeployment import ModelDeploymentStatus
from holdfast.build import labels
from holdfast.plan.observed import Served, Settings, TrainingOutput

DIGESTS = ["sha256:" + letter * 64 for letter in "abc"]
MODELS: list[dict[str, Any]] = [
    {"uri": worlds.URI, "digest": DIGESTS[0]},
    {"uri": worlds.URI, "digest": DIGESTS[1]},
    {"uri": worlds.URI},
    {"uri": "https://models.example.com/wine.onnx"},
    {"trainingJobRef": {"name": "run"}},
]
CPU: list[dict[str, Any]] = [{}, {"resources": {"requests": {"cpu": "0.5"}}}]
REFERENCE = {"configMapKeyRef": {"name": "settings", "key": "level"}}
ENV: list[dict[str, Any]] = [{}, {"env": [{"name": "LOG_LEVEL", "valueFrom": REFERENCE}]}]
TLS: list[dict[str, Any]] = [{}, {"tls": {"secretRef": {"name": "wine-tls"}, "clientAuth": "None"}}]


class ModelDeployments(RuleBasedStateMachine):
    """One ModelDeployment in a world that does not hold still."""

    world: World
    ever_ready: set[str]
    selected: str | None
    has_served: bool

    @initialize(model=st.sampled_from(MODELS), replicas=st.integers(0, 3))
    def begin(self, model: dict[str, Any], replicas: int) -> None:
        self.world = worlds.model_deployment(replicas=replicas)
        self.world.spec["model"] = model
        self.ever_ready = set()
        self.selected = None
        self.has_served = False
        self.world.before_write = self.note_what_is_ready
        self.world.after_write = self.check_traffic

    # --- What users do ----------------------------------------------------------------------------------------------

    @rule(model=st.sampled_from(MODELS))
    def asks_for_another_model(self, model: dict[str, Any]) -> None:
        self.world.change(model=model)

    @rule(cpu=st.sampled_from(CPU), env=st.sampled_from(ENV), tls=st.sampled_from(TLS))
    def asks_for_other_pods(self, cpu: dict[str, Any], env: dict[str, Any], tls: dict[str, Any]) -> None:
        replicas = self.world.spec["serving"]["replicas"]
        self.world.change(serving={"replicas": replicas, **cpu, **env, **tls})

    @rule(replicas=st.integers(0, 3))
    def scales(self, replicas: int) -> None:
        self.world.scale(replicas)

    @rule(value=st.sampled_from([None, "INFO", "DEBUG"]))
    def edits_the_config_map(self, value: str | None) -> None:
        self.world.config_maps.pop(("settings", "level"), None)
        if value:
            self.world.config_maps["settings", "level"] = value

    @rule(state=st.sampled_from(["Missing", "Running", "Failed", "Succeeded"]), digest=st.sampled_from(DIGESTS))
    def trains(self, state: Any, digest: str) -> None:
        self.world.training = TrainingOutput("run", state, f"pvc://models/{digest[-1]}", digest, "words")

    @rule()
    def deletes_the_service(self) -> None:
        self.world.children.pop(("Service", "wine"), None)
        self.forget_if_nobody_remembers()

    @rule(which=st.integers(0, 3))
    def deletes_a_deployment(self, which: int) -> None:
        names = list(self.world.deployments)
        if names:
            name = names[which % len(names)]
            del self.world.children["Deployment", f"wine-{name}"]
            self.ever_ready.discard(name)
            if name == self.selected:
                self.has_served = False

    @rule(which=st.integers(0, 3), lost=st.sampled_from([labels.INTENT, labels.MODEL]))
    def removes_an_annotation(self, which: int, lost: str) -> None:
        deployments = list(self.world.deployments.values())
        if deployments:
            deployments[which % len(deployments)]["metadata"]["annotations"].pop(lost, None)

    @rule()
    def restores_a_backup_without_status(self) -> None:
        self.world.status = {}
        self.forget_if_nobody_remembers()

    def forget_if_nobody_remembers(self) -> None:
        """Without Service and status, and with no pod ready, nothing in the cluster tells who served."""
        if not self.world.status and self.world.selected is None:
            self.has_served = False

    @rule(image=st.sampled_from(["localhost/serving:1", "localhost/serving:2"]))
    def upgrades_the_operator(self, image: str) -> None:
        self.world.settings = Settings(image, "localhost/training:1")

    # --- What the cluster does --------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 3), ready=st.integers(0, 3))
    def pods_change(self, which: int, ready: int) -> None:
        deployments = list(self.world.deployments.values())
        if deployments:
            deployment = deployments[which % len(deployments)]
            asked = deployment["spec"]["replicas"]
            deployment["status"] = {"replicas": asked, "readyReplicas": min(ready, asked)}

    @rule(taken=st.booleans())
    def somebody_has_a_name(self, taken: bool) -> None:
        key = ("PodDisruptionBudget", "wine")
        if taken and key not in self.world.children:
            self.world.foreign = {key}
        else:
            self.world.foreign = set()

    @rule(digest=st.sampled_from([*DIGESTS, None]))
    def helpers_come_to_an_end(self, digest: str | None) -> None:
        for job in self.world.jobs:
            if digest:
                self.world.end_job(job, {"result": "Resolved", "digest": digest})
            else:
                self.world.end_job(job, {"reason": "ModelNotFound", "message": "404"}, failed="PodFailurePolicy")

    @rule(pods_only=st.booleans())
    def helpers_are_forgotten(self, pods_only: bool) -> None:
        for job in self.world.jobs:
            self.world.pods.pop(job, None)
            if not pods_only:
                del self.world.children["Job", job]

    @rule(seconds=st.sampled_from([1, 6, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.wait(seconds)

    # --- What the operator does -------------------------------------------------------------------------------------

    @rule(writes=st.one_of(st.none(), st.none(), st.integers(0, 5)))
    def operator_acts(self, writes: int | None) -> None:
        self.world.step(crash_after=writes)
        self.note_what_serves()

    @rule()
    def operator_comes_to_rest(self) -> None:
        self.world.converge()
        self.note_what_serves()

    @rule()
    def all_goes_well(self) -> None:
        """Whatever happened before: once everything is there that is needed, the model is served, and nothing else."""
        world = self.world
        world.foreign = set()
        world.config_maps["settings", "level"] = "INFO"
        world.training = TrainingOutput("run", "Succeeded", "pvc://models/a", DIGESTS[0])
        for _ in range(4):
            world.ready()
            for job in world.jobs:
                world.end_job(job, {"result": "Resolved", "digest": DIGESTS[2]})
            self.operator_comes_to_rest()
            if world.says("Ready") == ("False", "RevisionRejected"):
                [rejected] = [r["name"] for r in world.status["revisions"] if r["name"] in world.message().split()[0]]
                world.annotations = {labels.ROLLOUT: f"retry {rejected}@{world.now}"}
        assert world.says("Ready") == ("True", "Serving")
        world.wait(90_000)  # all windows of the guard
        self.operator_comes_to_rest()
        assert list(world.deployments) == [world.selected] == [world.status["stableRevision"]]
        [deployment] = world.deployments.values()
        replicas = world.spec["serving"]["replicas"]
        assert deployment["spec"]["replicas"] == world.status["readyReplicas"] == replicas
        assert (("PodDisruptionBudget", "wine") in world.children) == (replicas >= 2)
        assert "candidateRevision" not in world.status

    # --- What always holds ------------------------------------------------------------------------------------------

    def note_what_serves(self) -> None:
        if self.world.status.get("stableRevision") in self.world.deployments:
            self.has_served = True

    def note_what_is_ready(self) -> None:
        """A revision was ready when it had all the pods that were asked for, and one where none were."""
        asked = self.world.spec["serving"]["replicas"]
        for name, deployment in self.world.deployments.items():
            if deployment["status"].get("readyReplicas", 0) >= max(1, asked):
                self.ever_ready.add(name)

    def check_traffic(self) -> None:
        """After every single write."""
        now = self.world.selected or self.selected
        if now != self.selected and self.has_served:
            assert now in self.ever_ready, f"traffic goes to {now}, which never was ready"
        self.selected = now
        if now in self.ever_ready:
            assert now in self.world.deployments, f"{now} answers and was deleted"
        if self.world.selected in self.world.deployments:
            [server] = self.world.deployments[now]["spec"]["template"]["spec"]["containers"]
            wanted = {port["targetPort"] for port in self.world.children["Service", "wine"]["spec"]["ports"]}
            assert wanted <= {port["name"] for port in server["ports"]}, f"{now} has no such port"

    @invariant()
    def a_service_always_has_a_deployment_behind_it(self) -> None:
        if hasattr(self, "world") and self.world.selected and self.has_served:
            assert self.world.selected in self.world.deployments

    @invariant()
    def status_is_one_that_the_api_server_takes_and_kstatus_understands(self) -> None:
        if not hasattr(self, "world") or not self.world.status:
            return
        ModelDeploymentStatus.parse(self.world.status)
        ready = self.world.condition("Ready")
        present = [found for found in map(self.world.condition, ("Reconciling", "Stalled")) if found]
        assert len(present) <= 1
        for found in present:
            assert ready
            assert (found["reason"], found["message"]) == (ready["reason"], ready["message"])

    @invariant()
    def a_plan_never_takes_pods_from_what_answers(self) -> None:
        if not hasattr(self, "world") or self.world.selected not in self.world.deployments:
            return
        asked = self.world.spec["serving"]["replicas"]
        before = self.world.deployments[self.world.selected]["spec"]["replicas"]
        for write in self.world.plan().writes:
            if getattr(write, "name", "") == f"wine-{self.world.selected}":
                assert getattr(write, "replicas", before) >= min(asked, before)


def without_generations(status: Any) -> Any:
    """What a status says but for which spec it has seen."""
    found = [{**condition, "observedGeneration": 0} for condition in status["conditions"]]
    return {**status, "observedGeneration": 0, "conditions": found}


class TrainingJobs(RuleBasedStateMachine):
    """One TrainingJob in a world that does not hold still."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.world = worlds.training_job()
        self.final: Any = None

    @rule(writes=st.one_of(st.none(), st.integers(0, 2)))
    def operator_acts(self, writes: int | None) -> None:
        self.world.step(crash_after=writes)

    @rule(image=st.sampled_from(["localhost/training:1", "localhost/training:2"]))
    def upgrades_the_operator(self, image: str) -> None:
        self.world.settings = Settings("localhost/serving:1", image)

    @rule(seconds=st.sampled_from([1, 6, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.world.jobs)
    @rule()
    def runs(self) -> None:
        self.world.children["Job", self.world.jobs[0]]["status"] = {"ready": 1}

    @precondition(lambda self: self.world.jobs)
    @rule(failed=st.sampled_from([None, "PodFailurePolicy", "DeadlineExceeded", "BackoffLimitExceeded"]))
    def ends(self, failed: str | None) -> None:
        said = {"reason": "ColumnNotFound", "message": "words"} if failed else self.report()
        self.world.end_job(self.world.jobs[0], said, failed=failed)

    def report(self) -> dict[str, Any]:
        """Of a pod that ended well."""
        return {
            "result": "Completed",
            "model": {"uri": "pvc://models/wine/run", "digest": DIGESTS[0], "estimator": "Ridge", "sizeBytes": 1},
            "metrics": [{"name": "Accuracy", "value": "0.9"}],
            "data": {"digest": DIGESTS[1], "rows": 10, "testRows": 2, "columns": 3},
        }

    @rule()
    def pods_are_lost(self) -> None:
        self.world.pods.clear()

    @rule()
    def the_job_is_deleted(self) -> None:
        self.world.children.clear()
        self.world.pods.clear()

    @rule()
    def the_status_is_lost(self) -> None:
        if self.final is None:
            self.world.status = {}

    @rule(suspend=st.booleans(), seconds=st.sampled_from([0, 600]))
    def changes_what_may_change(self, suspend: bool, seconds: int) -> None:
        self.world.change(suspend=suspend, ttlSecondsAfterFinished=seconds)

    @rule()
    def comes_to_rest(self) -> None:
        self.world.converge()
        if self.world.says("Succeeded") == ("Unknown", "Suspended"):
            assert all(child["spec"]["suspend"] for child in self.world.children.values())

    @invariant()
    def a_job_whose_end_is_not_on_record_cannot_expire(self) -> None:
        if hasattr(self, "world") and (self.world.says("Succeeded") or ("Unknown",))[0] == "Unknown":
            assert not [child for child in self.world.children.values() if "ttlSecondsAfterFinished" in child["spec"]]

    @invariant()
    def there_is_never_a_second_job(self) -> None:
        if hasattr(self, "world"):
            assert len(self.world.jobs) <= 1

    @invariant()
    def an_end_is_an_end(self) -> None:
        if not hasattr(self, "world"):
            return
        if self.final is not None:
            assert without_generations(self.world.status) == without_generations(self.final)
        elif (said := self.world.says("Succeeded")) and said[0] != "Unknown":
            self.final = self.world.status


class BatchInferences(TrainingJobs):
    """One BatchInference in such a world, where other revisions become stable meanwhile."""

    @initialize()
    def begin(self) -> None:
        self.world = worlds.batch_inference()
        self.final: Any = None
        self.model: Any = None

    @rule(revision=st.sampled_from(["5f3a9c0d1e", "c41d7e0a92", None]))
    def another_revision_is_served(self, revision: str | None) -> None:
        self.world.served = Served(f"pvc://models/{revision}", DIGESTS[0], revision) if revision else None

    @rule()
    def another_pod_was_the_last(self) -> None:
        """Each of the pods that are left looked before the others' files could be seen."""
        for job in self.world.jobs:
            self.world.end_job(job, {"result": "Partial"})

    def report(self) -> dict[str, Any]:
        [job] = self.world.jobs
        model = json.loads(self.world.children["Job", job]["metadata"]["annotations"]["holdfast.dev/model"])
        return {
            "result": "Completed",
            "message": "",
            "model": {"uri": model["uri"], "digest": model["digest"]},
            "outputURI": "pvc://lake/scored/wine-0",
            "rowsRead": 10,
            "rowsWritten": 10,
            "rowsBad": 0,
            "shards": 16,
        }

    # The Job and the status remember the model. Pods tell when both are lost: their files say who scored them.

    @rule()
    def the_job_is_deleted(self) -> None:
        if self.world.status.get("model"):
            super().the_job_is_deleted()

    @rule()
    def the_status_is_lost(self) -> None:
        if self.world.jobs:
            super().the_status_is_lost()

    @invariant()
    def the_model_is_the_one_that_the_run_began_with(self) -> None:
        if hasattr(self, "world") and (model := self.world.status.get("model")):
            self.model = self.model or model
            assert model == self.model


LIMITS = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestModelDeployments = ModelDeployments.TestCase
TestModelDeployments.settings = LIMITS
TestTrainingJobs = TrainingJobs.TestCase
TestTrainingJobs.settings = LIMITS
TestBatchInferences = BatchInferences.TestCase
TestBatchInferences.settings = LIMITS
