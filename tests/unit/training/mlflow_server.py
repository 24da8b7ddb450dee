"""A real MLflow server on SQLite and loopback, from an environment of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from tests.unit.bundle.loopback import LOOPBACK
from tests.unit.serving import environments
from tests.unit.stores.servers import free_port, running

WEB = replace(LOOPBACK, connect_seconds=60, idle_seconds=120)
"""As patient as a loaded machine needs it."""
START_SECONDS = 500


@contextlib.contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    """Its URI. One that many start at once would need minutes: its modules are large."""
    port = free_port()
    python = environments.python("mlflow")
    command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "artifacts")]
    told = {
        "PATH": f"{python.parent}:{os.defpath}",
        "HOME": str(folder),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with running(command, port, folder / "log", told, seconds=START_SECONDS):
        yield f"http://127.0.0.1:{port}"


def asked(server: str, what: str, **arguments: Any) -> dict[str, Any]:
    """What the server says to a GET of a person's."""
    answer = httpx.get(f"{server}/api/2.0/mlflow/{what}", params=arguments, timeout=120)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said
