"""Ports for programs that have to be told theirs before they start."""

import random
import socket

RANGE = (20000, 32000)
"""Below that of outgoing connections, one of which could take a port before its program has bound it."""


def free(count: int = 1) -> list[int]:
    """So many ports of loopback that nobody has."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", random.randint(*RANGE)))  # noqa: S311 - no secret
            except OSError:
                candidate.close()
                continue
            sockets.append(candidate)
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
