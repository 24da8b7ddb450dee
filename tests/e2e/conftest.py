"""A real cluster with the operator in it, for the whole run; a namespace for each module."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.e2e.cluster import namespace, running
from tests.e2e.kube import Kube
from tests.e2e.models import ModelServer, start_model_server


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Kube]:
    """The cluster, with images and the operator."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), running() as admin:
        yield admin


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
