"""
`Content-Encoding`, undone piece by piece: gzip and zstd, and nothing that grows without end.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), RFC 9659, which lets a sender of zstd use a window of at
most 8 MiB (read 2026-11).
"""

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import zstandard

#: What can be undone; `identity` and nothing at all leave a body as it is.
ENCODINGS = ("gzip", "zstd")

#: A body may become so many times what came, once it is larger than that: rows repeat themselves a
#: hundredfold, and only a bomb does a thousandfold.
LARGEST_RATIO = 200
_FREE_BYTES = 16 << 20
#: Of input at once. Four bytes of zstd may stand for 128 KiB: what is refused was in memory before.
_PIECE_BYTES = 512
_WINDOW_BYTES = 8 << 20
_GZIP = 16 + zlib.MAX_WBITS


class EncodingError(Exception):
    """The body is not what its encoding says: damaged, cut short, or of no encoding known here."""


class TooLargeError(EncodingError):
    """There is more in it than may be."""


class Decoder(Protocol):
    """Undoes one body. Whoever got an error asks nothing more of it."""

    def feed(self, chunk: bytes) -> bytes:
        """
        What the next bytes stand for, and perhaps a little of what came before.

        In memory at once: at most `LARGEST_RATIO` times the chunk, and 16 MiB. Feed it little.

        Raises:
            EncodingError: it is damaged.
            TooLargeError: it is more than `largest_bytes` in all, or grows like a bomb.
        """
        ...

    def finish(self) -> bytes:
        """
        What is left, after the last chunk.

        Raises:
            EncodingError: it was cut short.
        """
        ...


def decoder_for(content_encoding: str | None, largest_bytes: int) -> Decoder:
    """
    What undoes an encoding, as `Content-Encoding` names it, to at most `largest_bytes`.

    Raises:
        EncodingError: it is none of `ENCODINGS`, or several, one upon the other.
    """
    name = (content_encoding or "").strip().lower()
    if name in ("", "identity"):
        return _Plain(largest_bytes)
    if name in ("gzip", "x-gzip"):  # RFC 9110, 8.4.1.3: the same
        return _Coded(_new_gzip, largest_bytes)
    if name == "zstd":
        return _Coded(_new_zstd, largest_bytes)
    raise EncodingError(f"unknown encoding; known: {', '.join(ENCODINGS)}")


class _Plain:
    def __init__(self, largest_bytes: int) -> None:
        self._left_bytes = largest_bytes

    def feed(self, chunk: bytes) -> bytes:
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise TooLargeError("larger than allowed")
        return chunk

    def finish(self) -> bytes:
        return b""


class _Coded:
    """Members of gzip, or frames of zstd, one behind the other."""

    def __init__(self, begin: Callable[[], Any], largest_bytes: int) -> None:
        self._begin = begin
        self._largest_bytes = largest_bytes
        self._member: Any = None
        self._in_bytes = 0
        self._out_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        pieces = range(0, len(chunk), _PIECE_BYTES)
        return b"".join(self._undo(chunk[at : at + _PIECE_BYTES]) for at in pieces)

    def finish(self) -> bytes:
        if self._member is not None or not self._in_bytes:
            raise EncodingError("cut short")
        return b""

    def _undo(self, piece: bytes) -> bytes:
        self._in_bytes += len(piece)
        found = b""
        while piece:
            if self._member is None:
                self._member = self._begin()
            try:
                found += self._member.decompress(piece)
            except (zlib.error, zstandard.ZstdError) as error:
                raise EncodingError(f"damaged: {error}") from None
            piece = b""
            if self._member.eof:
                piece, self._member = self._member.unused_data, None
        self._out_bytes += len(found)
        if self._out_bytes > self._largest_bytes:
            raise TooLargeError("larger than allowed")
        if self._out_bytes > max(_FREE_BYTES, self._in_bytes * LARGEST_RATIO):
            raise TooLargeError(f"grows more than {LARGEST_RATIO} times: it may be a bomb")
        return found


def _new_gzip() -> Any:
    return zlib.decompressobj(_GZIP)


def _new_zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
