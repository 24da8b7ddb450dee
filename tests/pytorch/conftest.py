"""Where PyTorch comes from: the environment, or Debian's package, whose place is looked at last."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from tests.unit.training.conftest import claim, mixed, shipped  # before PyTorch: it sets the number of threads

__all__ = ["claim", "mixed", "shipped"]

DEBIAN = Path("/usr/lib/python3/dist-packages")

if importlib.util.find_spec("torch") is None and (DEBIAN / "torch").exists():
    sys.path.append(str(DEBIAN))


@pytest.fixture(scope="session", autouse=True)
def _needs_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        pytest.skip(f"`make test-torch` installs PyTorch for these tests: {error}")
