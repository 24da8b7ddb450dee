"""Octets made of other octets, always the same ones for a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

_WORDS = [
    b"\0", b"\xff", b"\x80", b"\x7f", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00",
    b"\xff" * 9 + b"\x01", b"0", b"-1", b"1e999", b"9" * 20,
    b'"', b"{}", b"[]", b"[", b"null", b"true", b"\\ud800", b"\xc3\xa9", b"\xed\xa0\x80", b"\r\n", b":", b"..", b"/",
    b"%2e", b"%00",
]  # fmt: skip


def mutants(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    random = Random(seed)
    for _ in range(count):
        yield mutant(random.choice(seeds), seeds, random)


def mutant(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A copy with one to six changes."""
    for _ in range(random.randint(1, 6)):
        start = random.randint(0, len(content))
        stop = min(len(content), start + random.choice((1, 1, 1, 2, 4, 8, 32)))
        piece = content[start:stop]
        kind = random.randrange(7)
        if kind == 0 and piece:
            piece = bytes([piece[0] ^ 1 << random.randrange(8)]) + piece[1:]
        elif kind == 1:
            piece = random.randbytes(len(piece))
        elif kind == 2:
            piece = b""
        elif kind == 3:
            piece *= random.choice((2, 3, 50))
        elif kind == 4:
            piece = random.choice(_WORDS)
        elif kind == 5:
            other = random.choice(others)
            at = random.randint(0, len(other))
            piece = other[at : at + random.randint(1, 40)]
        else:
            content, piece, stop = content[:stop], piece, len(content)
            start = min(start, len(content))
        content = content[:start] + piece + content[stop:]
    return content
