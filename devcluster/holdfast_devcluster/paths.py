"""Where devcluster keeps things: one cache folder per user, nothing elsewhere."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """`$XDG_CACHE_HOME/holdfast` or `~/.cache/holdfast`; created when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "holdfast"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
