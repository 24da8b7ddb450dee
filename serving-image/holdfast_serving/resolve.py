"""The helper: fetch a model, verify it as the server would, report its digest."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from holdfast_bundle.errors import BundleError
from holdfast_bundle.web import Web
from holdfast_serving import outcome
from holdfast_serving.load import fetch
from holdfast_serving.settings import Settings

log = logging.getLogger(__name__)

_PRODUCTION = Web()


def resolve(settings: Settings, web: Web = _PRODUCTION) -> tuple[int, dict[str, Any]]:
    """(exit code, termination message)."""
    try:
        with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="model-") as folder:
            fetched = fetch(
                settings.model_uri,
                Path(folder),
                None,
                claims=settings.claims,
                web=web,
                credentials=settings.credentials,
                cache=settings.cache,
            )
    except BundleError as error:
        code, message = outcome.of_error(error, settings.model_uri)
        log.error("%(reason)s: %(message)s", message)
        return code, message
    log.info("%s is %s", settings.model_uri, fetched.digest)
    return outcome.DONE, {
        "result": "Resolved",
        "digest": fetched.digest,
        "sizeBytes": fetched.size,
        "format": "Bundle" if fetched.bundle else "ONNX",
    }
