"""`python -m holdfast`: the operator."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from holdfast import handlers, logs, settings


def main() -> int:
    """Exit status: 0 after a signal, 1 when it should be started again, 2 when its settings are wrong."""
    try:
        read = settings.read(os.environ)
    except settings.SettingsError as error:
        print(f"The operator cannot start: {error}.", file=sys.stderr)
        return 2
    logs.configure(read.log_level)
    try:
        asyncio.run(handlers.run(read))
    except Exception:
        logging.getLogger(__name__).exception("the operator ends")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
