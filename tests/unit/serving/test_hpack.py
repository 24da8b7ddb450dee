"""Header compression, beside the library hpack."""

from __future__ import annotations

import hpack as library
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_serving.grpc import hpack, huffman
from holdfast_serving.grpc.hpack import MALFORMED, Decoder, HpackError

NAMES = st.from_regex(rb"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True).filter(
    lambda name: name not in (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
VALUES = st.binary(max_size=200).filter(
    lambda value: value.strip(b" \t") == value and not set(value) & set(b"\x00\r\n")
)
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=12), max_size=8)


@given(BLOCKS, st.booleans(), st.lists(st.integers(0, 4096), max_size=8))
@settings(max_examples=200, deadline=None)
def test_what_another_encoder_writes_is_read(blocks: list[list[hpack.Field]], huffman: bool, sizes: list[int]) -> None:
    encoder, decoder = library.Encoder(), Decoder()
    for index, block in enumerate(blocks):
        if index < len(sizes):
            encoder.header_table_size = sizes[index]
        assert decoder.decode(encoder.encode(block, huffman=huffman)) == block


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
@settings(max_examples=100, deadline=None)
def test_another_decoder_reads_what_is_written(fields: list[hpack.Field]) -> None:
    assert [
        (bytes(name), bytes(value)) for name, value in library.Decoder().decode(hpack.encode(fields), raw=True)
    ] == fields


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_octets_without_sense_are_an_error_and_nothing_worse(block: bytes) -> None:
    decoder = Decoder()
    for _ in range(2):
        try:
            decoder.decode(block)
        except HpackError:
            return


def test_every_octet_has_its_word() -> None:
    text = bytes(range(256))
    encoded = library.Encoder().huffman_coder.encode(text)
    assert huffman.decode(encoded) == text
    for cut in (encoded[:-1] + b"\x00", b"\xff\xff\xff\xff", b"\xff"):  # the last is more padding than there may be
        with pytest.raises(ValueError, match=r"the last word|the end of the code"):
            huffman.decode(cut)


@pytest.mark.parametrize(
    "field",
    [
        (b"Upper", b"x"), (b"", b"x"), (b"a b", b"x"), (b":other", b"x"), (b"connection", b"close"), (b"upgrade", b"x"),
        (b"transfer-encoding", b"chunked"), (b"x", b"a\r\nb"), (b"x", b"\x00"), (b"x", b" padded"), (b"x", b"padded\t"),
    ],
)  # fmt: skip
def test_a_field_that_no_request_may_have_is_marked_however_it_comes(field: hpack.Field) -> None:
    encoder, decoder = library.Encoder(), Decoder()
    for _ in range(2):  # as text, and then by its number
        assert decoder.decode(encoder.encode([(b"a", b"b"), field]))[1][0] == MALFORMED


@pytest.mark.parametrize(
    "block",
    [
        b"\x80", b"\xff\x80\x80\x80\x80\x80\x01", b"\xbe", b"\x40", b"\x40\x01a", b"\x40\x05ab", b"\x00\x01a\x7f\xff",
        b"\x82\x20", b"\x3f\xe2\x1f", b"\x40\x81\xff\x00",
    ],
)  # fmt: skip
def test_a_broken_block_is_an_error(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(block)
