"""Is there an internet? Asked once per host, and answered in seconds even where packets vanish."""

import functools
import socket
import threading
import urllib.request

SECONDS = 4


@functools.cache
def reachable(host: str, port: int = 443) -> bool:
    """Does `host` take connections? True behind a proxy, which alone can tell."""
    if urllib.request.getproxies():
        return True
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), SECONDS).close()
            answers.append(True)
        except OSError:
            answers.append(False)

    # In a thread, because looking up the name has no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(answers and answers[0])
