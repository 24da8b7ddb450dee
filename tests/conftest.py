"""What several tiers share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from holdfast_devcluster import ControlPlane, backends, binaries, images, nodejs, packages
from holdfast_devcluster import control_plane as run_control_plane

TESTS = Path(__file__).parent

# The same examples everywhere, however busy the machine is. `pytest --hypothesis-profile=default` draws others.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make programs and images before the first test: on a fresh machine that takes longer than any test may."""
    if session.config.option.collectonly:
        return
    tiers = {item.path.relative_to(TESTS).parts[:2] for item in session.items if item.path.is_relative_to(TESTS)}
    folders = {part for tier in tiers for part in tier}
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")

    def report(message: str) -> None:
        if terminal is not None:
            terminal.write_line(message)

    if folders & {"api", "component", "devcluster", "e2e"}:
        binaries.find("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", report=report)
        binaries.kubectl(report)
    if "devcluster" in folders:
        binaries.find("kwok", report=report)
    if folders & {"stores", "e2e"}:
        binaries.find("versitygw", report=report)
    if folders & {"build", "component", "kube", "monitoring", "signals", "e2e"}:
        binaries.find("prometheus", "promtool", report=report)
    if "stores" in folders:
        binaries.find("fake-gcs-server", report=report)
        nodejs.azurite(report)
        packages.require(["docker-registry"], report)
    if "e2e" in folders:
        if not backends.docker_answers():
            binaries.find("kubelet", "kube-proxy", "coredns", report=report)
        for image in images.IMAGES.values():
            images.build(image, backends.builder(report), report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why a test failed that then passed: a run of all tiers does not fail for it, and somebody has to mend it."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed at first: {report.nodeid}", red=True)
        terminalreporter.write_line(report.longreprtext)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One real control plane without nodes for the whole run; every test takes a namespace of its own."""
    with run_control_plane() as plane:
        yield plane


@pytest.fixture(scope="session")
def control_plane_kubeconfig(control_plane: ControlPlane) -> Path:
    """The administrator's kubeconfig of `control_plane`."""
    return control_plane.kubeconfig
