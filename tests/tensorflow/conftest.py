"""TensorFlow is in an environment of its own."""

from __future__ import annotations

import importlib.util

import pytest
from tests.unit.training.conftest import claim, mixed, shipped  # before TensorFlow: it sets the number of threads

__all__ = ["claim", "mixed", "shipped"]


@pytest.fixture(autouse=True)
def _needs_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("`make test-tensorflow` runs these tests where TensorFlow is")
