"""A body that was pushed, from its artifact to its rows: undone, cut, and a few rows at a time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from shared.artifacts import ArtifactError
from shared.encodings import Decoder, EncodingError, TooLargeError, decoder_for
from shared.providers.sender.formats import format_of
from workers.jobs.arrays import ArrayRows, WholeRows
from workers.jobs.lines import LineRows
from workers.jobs.parts import PartRows, boundary_of
from workers.jobs.rows import Damaged, Reader, Row
from workers.jobs.sheets import SheetRows

#: The ends of names of files whose content type says nothing.
_ENDS = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}
_SAYS_NOTHING = ("", "application/octet-stream", "text/plain")

#: Of what came, undone at once: it may be two hundred times as much then.
_ENCODED_PIECE_BYTES = 32 << 10
#: Cut into rows at once: an empty line takes a hundred bytes in memory while it is looked at, and
#: the loop waits for it.
_PIECE_BYTES = 256 << 10

#: Finds the rows of a document; None: its elements, or itself.
Find = Callable[[Any], Sequence[Any]] | None


def format_of_file(content_type: str, name: str) -> str | None:
    """The format of an uploaded file; None where nothing says which."""
    if content_type.partition(";")[0].strip().lower() in _SAYS_NOTHING:
        return next((known for end, known in _ENDS.items() if name.lower().endswith(end)), None)
    return format_of(content_type)


def reader_for(content_type: str, find: Find, place: Mapping[str, Any]) -> Reader:
    """
    What cuts a body of that type into rows, from that place on.

    Raises:
        Damaged: nothing does.
    """
    if format_of(content_type) == "multipart":
        return PartRows(boundary_of(content_type), _opener(find), place)
    reader = _opener(find)(content_type, "", place)
    if reader is None:
        raise Damaged("unsupported_media_type", f"no format known here: {content_type[:100]!r}")
    return reader


def _opener(find: Find) -> Callable[[str, str, Mapping[str, Any]], Reader | None]:
    def opened(content_type: str, name: str, place: Mapping[str, Any]) -> Reader | None:
        match format_of_file(content_type, name):
            case "json":
                return ArrayRows(place) if find is None else WholeRows(find, place)
            case "ndjson":
                return LineRows(place)
            case "csv":
                return SheetRows(place)
            case _:
                return None

    return opened


class Reading:
    """
    One body on its way. `chunks` are what came, `content_encoding` what it came in.

    Raises:
        Damaged: nobody here can read it.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        content_encoding: str | None,
        largest_bytes: int,
        reader: Reader,
        place: Mapping[str, Any],
    ) -> None:
        self._is_encoded = (content_encoding or "").strip().lower() not in ("", "identity")
        try:
            self._decoder: Decoder = decoder_for(content_encoding, largest_bytes)
        except EncodingError as error:
            raise Damaged("bad_encoding", str(error)) from None
        self._reader = reader
        self._skip_bytes: int = place.get("offset", 0)
        self._rows: Iterator[Row] = iter(())
        self._more = self._each_feed(chunks)
        self._error: Exception | None = None

    @property
    def place(self) -> Mapping[str, Any]:
        """Behind the last row that was taken: where another reading may go on."""
        return self._reader.place

    async def take(self) -> Row | None:
        """
        The next row; None: there is none. Reads ahead a little.

        Raises:
            Damaged, ArtifactError: when the rows in front of it have been taken; each time.
        """
        while self._error is None:
            try:
                for row in self._rows:
                    return row
                self._rows = await anext(self._more)
            except StopAsyncIteration:
                return None
            except EncodingError as error:
                code = "too_large" if isinstance(error, TooLargeError) else "bad_encoding"
                self._error = Damaged(code, f"the body cannot be undone: {error}")
            except (Damaged, ArtifactError) as error:
                self._error = error
        raise self._error

    async def close(self) -> None:
        """Let go of the body."""
        await self._more.aclose()

    async def _each_feed(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Iterator[Row]]:
        size = _ENCODED_PIECE_BYTES if self._is_encoded else _PIECE_BYTES
        async for chunk in chunks:
            for at in range(0, len(chunk), size):
                undone = self._unskipped(self._decoder.feed(chunk[at : at + size]))
                for begin in range(0, len(undone) or 1, _PIECE_BYTES):
                    # The loop lives on, however far into the body a resumed reading begins.
                    await asyncio.sleep(0)
                    yield self._reader.feed(undone[begin : begin + _PIECE_BYTES])
        yield self._reader.feed(self._unskipped(self._decoder.finish()))
        yield self._reader.finish()

    def _unskipped(self, data: bytes) -> bytes:
        skipped = data[self._skip_bytes :] if self._skip_bytes else data
        self._skip_bytes = max(0, self._skip_bytes - len(data))
        return skipped
