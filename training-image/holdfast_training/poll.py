"""Are there new data? Looks twice, with a pause between: what is still being written is not there yet.

Nothing is remembered from one poll to the next, and nothing is read but lists and heads: whoever asked compares the
version with that of the last run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast_bundle.uris import CLAIMS, parse
from holdfast_bundle.web import Web
from holdfast_training.access import SECRETS, Access
from holdfast_training.errors import TrainingError, count
from holdfast_training.listing import PRODUCTION, Files, described, files_of
from holdfast_training.spec import secret_of


def poll(
    text: str,
    *,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    platform: Mapping[str, str] | None = None,
    secrets: Path = SECRETS,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Carry out the poll of `HOLDFAST_POLL`; what goes into the termination message.

    Raises:
        TrainingError: `DataChanging` when both looks differ, `DataNotFound` also for a folder without data,
            `DataInvalid` for a web server that does not tell versions apart, and as `listing` says.
        ValueError, KeyError: for a document that is none.
    """
    document: dict[str, Any] = json.loads(text)
    access = Access(document.get("serviceAccountName", ""), platform or {}, secrets)
    data, settle = document["data"], document["settleSeconds"]
    with described():
        uri = parse(data["uri"])
        credentials = access.to("data", secret_of(data))

        def look() -> Files:
            found = files_of(uri, web=web, claims=claims, credentials=credentials)
            if not found.names:
                raise TrainingError("DataNotFound", f"{uri} is a folder without data files")
            if found.version is None:
                words = "the server tells neither an ETag nor when it was changed, so new data cannot be noticed"
                raise TrainingError("DataInvalid", f"{uri}: {words}")
            return found

        before = look()
        sleep(settle)
        after = look()
    if before.version != after.version:
        raise TrainingError("DataChanging", f"{uri} changed within {count(settle, 'second')}; it is looked at again")
    return {"result": "Completed", "version": after.version, "files": len(after.names)}
