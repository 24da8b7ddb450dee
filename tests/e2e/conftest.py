"""A real cluster with the operator in it, for the whole run; a namespace for each module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from tests.e2e import loop
from tests.e2e.cluster import namespace, running
from tests.e2e.kube import Kube
from tests.e2e.models import ModelServer, start_model_server


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Kube]:
    """The cluster, with images and the operator."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), running() as admin:
        yield admin


@pytest.fixture(scope="session", autouse=True)
def begun(request: pytest.FixtureRequest) -> list[Future[loop.Story]]:
    """The loop's story. It begins before all tests and goes on beside them, for it takes minutes and mostly waits."""
    if not any(item.path.name == "test_loop.py" for item in request.session.items):
        return []
    return [loop.begin(request.getfixturevalue("cluster"), "test-loop")]


@pytest.fixture(scope="module")
def story(cluster: Kube, begun: list[Future[loop.Story]]) -> Iterator[loop.Story]:
    """The one that has begun; where that came to no end and is asked for once more, another one."""
    lived = (begun.pop() if begun else loop.begin(cluster, "test-loop-again")).result()
    yield lived
    cluster("delete", "namespace", lived.kube.namespace, "--wait=false")


@pytest.fixture(scope="module")
def kube(cluster: Kube, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """kubectl in a namespace of the module's own."""
    name = re.sub(r"[^a-z0-9]+", "-", request.module.__name__.rsplit(".", 1)[-1].lower())
    with namespace(cluster, name) as own:
        yield own


@pytest.fixture(scope="module")
def models(kube: Kube) -> ModelServer:
    """A web server with models and tables in the module's namespace."""
    return start_model_server(kube)
