"""python -m holdfast_serving serve | resolve"""

from __future__ import annotations

import logging
import os
import sys

from holdfast_serving import settings as settings_module


def main() -> int:
    """Run a command; return the exit code."""
    # numpy's own thread pool, one thread per core of the node, is of no use here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        command, settings = settings_module.read(sys.argv[1:], os.environ)
    except settings_module.SettingsError as error:
        logging.error("%s", error)
        return 2
    import uvloop

    if command == "serve":
        from holdfast_serving.lifecycle import serve

        return uvloop.run(serve(settings))
    from holdfast_bundle import termination
    from holdfast_serving.resolve import resolve_and_tell

    code, message = uvloop.run(resolve_and_tell(settings))
    termination.write(message, settings.termination_log)
    return code


if __name__ == "__main__":
    sys.exit(main())
