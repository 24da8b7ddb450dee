import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_devcluster import ClusterError, ControlPlane, control_plane, paths
from holdfast_devcluster.api import ApiError


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with control_plane(kwok=True, nodes=2, audit_log=True) as running:
        yield running


def until(what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.05)


def started_by(process: subprocess.Popen[str], folder: Path) -> list[int]:
    """Processes that have `folder` on their command line, without `process` itself."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes() and int(entry.name) != process.pid:
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def test_a_deployment_becomes_available_on_fake_nodes(plane: ControlPlane) -> None:
    plane.kubectl("create", "deployment", "hello", "--image=localhost/hello:1", "--replicas=3")
    plane.kubectl("wait", "--for=condition=Available", "deployment/hello", "--timeout=180s")


def test_a_job_on_fake_nodes_completes(plane: ControlPlane) -> None:
    plane.kubectl("create", "job", "once", "--image=localhost/hello:1")
    plane.kubectl("wait", "--for=condition=Complete", "job/once", "--timeout=180s")


def test_the_audit_log_tells_who_wrote_what(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "audited")
    writers = [
        event["user"]["username"]
        for event in plane.audit_events()
        if event["verb"] == "create" and event["objectRef"].get("name") == "audited"
    ]
    assert writers == ["holdfast-admin"]


def test_a_service_account_may_do_what_rbac_grants_and_no_more(plane: ControlPlane) -> None:
    plane.kubectl("create", "role", "reader", "--verb=get", "--resource=configmaps")
    plane.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader")
    kubeconfig = plane.kubeconfig_for("system:serviceaccount:default:reader")
    as_reader = f"--kubeconfig={kubeconfig}"
    assert plane.kubectl("auth", "can-i", "get", "configmaps", as_reader).strip() == "yes"
    with pytest.raises(ClusterError, match="no"):
        plane.kubectl("auth", "can-i", "get", "secrets", as_reader)


def test_a_failing_kubectl_raises_with_its_complaint(plane: ControlPlane) -> None:
    with pytest.raises(ClusterError, match='namespaces "absent" not found'):
        plane.kubectl("get", "namespace", "absent")


def test_the_api_server_can_be_stopped_and_started_again(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "kept")
    server = plane.processes["kube-apiserver"]
    server.stop()
    with pytest.raises(OSError):
        plane.api.request("GET", "/readyz")
    server.start()
    plane.wait_ready()
    assert plane.api.request("GET", "/api/v1/namespaces/default/configmaps/kept")["metadata"]["name"] == "kept"


def test_a_refusal_of_the_api_server_carries_its_status(plane: ControlPlane) -> None:
    with pytest.raises(ApiError, match="not found") as refusal:
        plane.api.request("GET", "/api/v1/namespaces/absent")
    assert refusal.value.status == 404


def test_a_program_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("etcd", "kube-apiserver"):
        program = tmp_path / "bin" / name
        program.write_text("#!/bin/sh\necho no room on the disk\nexit 1\n")
        program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_BINARIES", str(tmp_path / "bin"))
        with (
            pytest.raises(ClusterError, match=r"(?s)ended by itself:.*no room on the disk"),
            control_plane(tmp_path / "state", controllers=False),
        ):
            pass


def test_nothing_is_left_of_a_run_that_was_killed() -> None:
    script = (
        "import signal\n"
        "from holdfast_devcluster import control_plane\n"
        "with control_plane(controllers=False) as plane:\n"
        "    print(plane.folder, flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        assert len(started_by(run, folder)) == 2
        run.send_signal(signal.SIGKILL)
        run.wait()
        until("its processes are gone", lambda: not started_by(run, folder))
    assert folder.parent == paths.cache() / "control-planes"
    assert folder.exists()
    with control_plane(controllers=False) as next_run:
        assert not folder.exists()
        assert next_run.folder.exists()
    assert not next_run.folder.exists()
