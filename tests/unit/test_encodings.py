"""Encodings undone: however they are cut, never more than allowed, and nothing damaged passes."""

import gzip
import random
import tracemalloc

import pytest
import zstandard

from shared.encodings import Decoder, EncodingError, TooLargeError, decoder_for

LARGEST = 1 << 20
TEXT = "".join(f'{{"id": "r{number}", "state": "open"}}\n' for number in range(5000)).encode()
ENCODED = {
    "gzip": gzip.compress(TEXT),
    "GZIP ": gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]),
    "x-gzip": gzip.compress(TEXT, 1),
    "zstd": zstandard.ZstdCompressor().compress(TEXT),
    " Zstd": zstandard.compress(TEXT[:7], 1) + zstandard.compress(TEXT[7:], 19),
    "identity": TEXT,
    "": TEXT,
}


def undone(decoder: Decoder, body: bytes, sizes: random.Random | None = None) -> bytes:
    found, start = [], 0
    while start < len(body):
        size = sizes.choice((1, 2, 17, 511, 512, 513, 4096)) if sizes else len(body)
        found.append(decoder.feed(body[start : start + size]))
        start += size
    return b"".join((*found, decoder.finish()))


@pytest.mark.parametrize("encoding", ENCODED)
def test_however_it_is_cut(encoding: str) -> None:
    for seed in range(20):
        body = ENCODED[encoding]
        assert undone(decoder_for(encoding, LARGEST), body, random.Random(seed)) == TEXT
    assert undone(decoder_for(encoding, len(TEXT)), body) == TEXT
    with pytest.raises(TooLargeError):
        undone(decoder_for(encoding, len(TEXT) - 1), body)


def test_nothing_is_said_of_no_encoding() -> None:
    assert undone(decoder_for(None, 3), b"abc") == b"abc"
    assert undone(decoder_for(None, 3), b"") == b""


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_is_damaged_or_cut_short_is_refused(encoding: str) -> None:
    body = ENCODED[encoding]
    for end in (0, 1, 4, 5, len(body) // 2, len(body) - 1):
        with pytest.raises(EncodingError):
            undone(decoder_for(encoding, LARGEST), body[:end])
    for behind in (b"\0", b"x", body[:3]):
        with pytest.raises(EncodingError):
            undone(decoder_for(encoding, LARGEST), body + behind)
    with pytest.raises(EncodingError):
        undone(decoder_for(encoding, LARGEST), TEXT)


@pytest.mark.parametrize("name", ["deflate", "br", "gzip, zstd", "gzip,", "zstd;q=1", "\0"])
def test_other_encodings_are_not_known(name: str) -> None:
    with pytest.raises(EncodingError, match="unknown encoding; known: gzip, zstd"):
        decoder_for(name, LARGEST)


def bombs() -> dict[str, bytes]:
    zeros = bytes(1 << 20)
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    packed = b"".join(compressor.compress(zeros) for _ in range(300)) + compressor.flush()
    return {"zstd": packed, "gzip": gzip.compress(bytes(128 << 20), 6)}


BOMBS = bombs()


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_goes_off_nowhere(encoding: str) -> None:
    """Neither by its size nor by how it grows: memory stays bounded."""
    body = BOMBS[encoding]
    for largest in (LARGEST, 5 << 30):
        tracemalloc.start()
        with pytest.raises(TooLargeError):
            undone(decoder_for(encoding, largest), body)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 << 20


def test_a_window_larger_than_senders_may_use_is_refused() -> None:
    """RFC 9659: the window is memory that whoever reads it has to have."""
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    body = compressor.compress(TEXT * 100) + compressor.flush()
    with pytest.raises(EncodingError, match="damaged"):
        undone(decoder_for("zstd", 1 << 30), body)
