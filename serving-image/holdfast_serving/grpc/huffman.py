"""The Huffman code of HPACK (RFC 7541, appendix B), for decoding.

The code is canonical, so the lengths of its words are all that has to be written down: words of one length follow
each other in the order of their octets, and longer words come behind shorter ones.
"""

from __future__ import annotations

_LENGTHS = bytes.fromhex(
    """
    0d 17 1c 1c 1c 1c 1c 1c 1c 18 1e 1c 1c 1e 1c 1c 1c 1c 1c 1c 1c 1c 1e 1c 1c 1c 1c 1c 1c 1c 1c 1c 06 0a 0a 0c
    0d 06 08 0b 0a 0a 08 0b 08 06 06 06 05 05 05 06 06 06 06 06 06 06 07 08 0f 06 0c 0a 0d 06 07 07 07 07 07 07
    07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 08 07 08 0d 13 0d 0e 06 0f 05 06 05 06 05 06 06 06 05 07 07
    06 06 06 05 06 07 06 05 05 06 07 07 07 07 07 0f 0b 0e 0d 1c 14 16 14 14 16 16 16 17 16 17 17 17 17 17 18 17
    18 18 16 17 18 17 17 17 17 15 16 17 16 17 17 18 16 15 14 16 16 17 17 15 17 16 16 18 15 16 17 17 15 15 16 15
    17 16 17 17 14 16 16 16 17 16 16 17 1a 1a 14 13 16 17 16 19 1a 1a 1a 1b 1b 1a 18 19 13 15 1a 1b 1b 1a 1b 18
    15 15 1a 1a 1c 1b 1b 1b 14 18 14 15 16 15 15 17 16 16 19 19 18 18 1a 17 1a 1b 1a 1a 1b 1b 1b 1b 1b 1c 1b 1b
    1b 1b 1b 1a 1e
    """
)
_END = 256  # the word that no text may hold
_ROOT = 1

_MAX_STEPS = 8192  # that are remembered: a tenth of all, and far more than headers are made of

# A state is what has been read of a word: its bits behind a leading 1.
_Step = tuple[int, bytes]


def decode(data: bytes) -> bytes:
    """The text. Raises ValueError for what is no text in this code."""
    state, steps = _ROOT, _STEPS
    made = []
    for octet in data:
        state, text = steps.get(state << 8 | octet) or _step(state, octet)
        made.append(text)
    if state not in _PADDING:
        raise ValueError("the last word is not complete")
    return b"".join(made)


def _words() -> dict[int, int]:
    """Octet by finished state."""
    words = {}
    code = length = 0
    for size, octet in sorted((size, octet) for octet, size in enumerate(_LENGTHS)):
        code <<= size - length
        length = size
        words[1 << size | code] = octet
        code += 1
    return words


def _step(state: int, octet: int) -> _Step:
    """(state, text) behind eight more bits; remembered as long as there is room."""
    key = state << 8 | octet
    text = b""
    for shift in range(7, -1, -1):
        state = state << 1 | octet >> shift & 1
        found = _WORDS.get(state)
        if found is not None:
            if found == _END:
                raise ValueError("the end of the code in a text")
            text += bytes((found,))
            state = _ROOT
    if len(_STEPS) < _MAX_STEPS:
        _STEPS[key] = state, text
    return state, text


_WORDS = _words()
_STEPS: dict[int, _Step] = {}
_PADDING = frozenset((1 << size + 1) - 1 for size in range(8))  # less than an octet of ones
