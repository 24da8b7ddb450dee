"""The helper: fetch a model, verify it as the server would, report its digest; of a registered one also where it is."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast_bundle.errors import BundleError
from holdfast_bundle.web import Web
from holdfast_serving import management, outcome
from holdfast_serving.connection import Port
from holdfast_serving.lifecycle import listener
from holdfast_serving.load import fetch
from holdfast_serving.settings import Settings

log = logging.getLogger(__name__)

_PRODUCTION = Web()


async def resolve_and_tell(settings: Settings) -> tuple[int, dict[str, Any]]:
    """(exit code, termination message). Meanwhile the management port tells how far it is."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 128 + signal.SIGTERM)
    doing = ["starts"]
    port = Port(management.helper_routes(lambda: doing[0]))
    sock = listener(settings.host, settings.management_port)
    await port.listen(sock)
    log.info("listening: management %d", sock.getsockname()[1])
    try:
        return await asyncio.to_thread(resolve, settings, tell=lambda words: doing.__setitem__(0, words))
    finally:
        port.stop()


def resolve(
    settings: Settings, web: Web = _PRODUCTION, tell: Callable[[str], None] | None = None
) -> tuple[int, dict[str, Any]]:
    """(exit code, termination message)."""
    uri, digest, found = settings.model_uri, None, dict[str, Any]()
    try:
        if uri.startswith("models:/"):
            from holdfast_bundle import mlflow

            uri, digest = mlflow.registered(uri, web=web, credentials=settings.credentials)
            found = {"uri": uri}
            log.info("%s is %s", settings.model_uri, uri)
            if uri.startswith("pvc://"):  # nobody knew that this pod would need that claim
                return outcome.DONE, {"result": "Resolved", **found, "digest": _told(uri, digest)}
        with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="model-") as folder:
            fetched = fetch(
                uri,
                Path(folder),
                digest,
                claims=settings.claims,
                web=web,
                credentials=settings.credentials,
                cache=settings.cache,
                tell=tell,
            )
    except BundleError as error:
        code, message = outcome.of_error(error, settings.model_uri)
        log.error("%(reason)s: %(message)s", message)
        return code, message
    log.info("%s is %s", settings.model_uri, fetched.digest)
    return outcome.DONE, {
        "result": "Resolved",
        **found,
        "digest": fetched.digest,
        "sizeBytes": fetched.size,
        "format": "Bundle" if fetched.bundle else "ONNX",
    }


def _told(uri: str, digest: str | None) -> str:
    """The digest that the registry tells of a model on a claim, which the server's pod will hold it to."""
    if digest is None:
        words = "its version has no tag holdfast.bundle.digest, without which a claim is not read"
        raise BundleError("Invalid", f"{uri}: {words}")
    return digest
