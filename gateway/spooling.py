"""
Bodies of any size: hashed as they come, small ones kept in memory, others in a file without a name.

The file is gone when it is closed, and when the process dies. All of it is bounded: how many files
there are at once, in all and of one source, and how much memory.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import IO, NamedTuple, Protocol

from starlette.requests import Request

from gateway.envelope import Refusal

#: A body of more is spooled, and lies in the artifact store afterwards.
SMALL_BYTES = 1 << 20
#: Files at once; of one source half as many, so that it leaves room for others.
FILES_AT_ONCE = 32
#: What small bodies may have of the memory; those of one source half of it.
MEMORY_BYTES = 64 << 20

#: So much is hashed and written at once. The next piece, or the end, has to come in time: what is
#: slower than this holds one of few files.
PIECE_BYTES = 256 << 10
PIECE_WITHIN_S = 20.0
#: Less than this is hashed sooner than a thread is woken.
_BRIEF_BYTES = 32 << 10

_apart = ThreadPoolExecutor(4, "spools")


class Reader(Protocol):
    """Whoever else goes through the body: `shared.providers.signing.streams.Verification`."""

    def update(self, chunk: bytes) -> None:
        """See there."""
        ...


class Limit(NamedTuple):
    """How large a body may be, and why, for whoever sends a larger one."""

    size_bytes: int
    why: str = ""


class Spool:
    """One body. `size_bytes` came so far; it is `whole` or there is a `file`."""

    def __init__(self, reader: Reader | None) -> None:
        self._reader = reader
        self._hash = sha256()
        self._kept: list[bytes] = []
        self.size_bytes = 0
        self.file: IO[bytes] | None = None

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the body, as it was received."""
        return self._hash.digest()

    def whole(self) -> bytes:
        """All of the body, in memory."""
        if self.file is None:
            return b"".join(self._kept)
        self.file.seek(0)
        return self.file.read()

    def take(self, piece: bytes) -> None:
        """
        Keep the next piece.

        Raises:
            OSError: it cannot be written.
        """
        self.size_bytes += len(piece)
        self._hash.update(piece)
        if self._reader is not None:
            self._reader.update(piece)
        if self.file is None:
            self._kept.append(piece)
        else:
            self.file.write(piece)

    def move(self) -> None:
        """
        From memory into a file, where one does not exist yet.

        Raises:
            OSError: there can be none.
        """
        if self.file is None:
            self.file = tempfile.TemporaryFile(prefix="sluice-")  # noqa: SIM115 - closed below
            self.file.write(b"".join(self._kept))
            self._kept.clear()

    def close(self) -> None:
        """Forget the body."""
        self._kept.clear()
        if self.file is not None:
            self.file.close()


class Spools:
    """All bodies that are under way. Must be used in one event loop."""

    def __init__(self, within_s: float = PIECE_WITHIN_S) -> None:
        self._within_s = within_s
        self._files: Counter[int] = Counter()
        self._held: Counter[int] = Counter()

    @property
    def held_bytes(self) -> int:
        """How much of bodies is in memory now."""
        return self._held.total()

    @property
    def open_files(self) -> int:
        """How many bodies are in files now."""
        return self._files.total()

    @asynccontextmanager
    async def receiving(
        self, request: Request, source_id: int, limit: Limit, reader: Reader | None
    ) -> AsyncGenerator[Spool]:
        """
        The whole body, until the context is left.

        Raises:
            Refusal: it is too large, or says so; it does not come; there is no room for it.
        """
        declared = _declared_bytes(request)
        if declared > limit.size_bytes:
            raise _too_large(limit)
        taken = _Taken(self, source_id)
        spool = Spool(reader)
        try:
            if declared > SMALL_BYTES:
                # Only looked at: a file is taken for what has come, or thirty lengths that anybody
                # may send, and nothing after them, would keep all large bodies out.
                self.check_files(source_id)
            is_whole = False
            while not is_whole:
                left_bytes = limit.size_bytes - spool.size_bytes
                piece, is_whole = await self._piece(request, left_bytes, taken)
                if spool.file is None and spool.size_bytes + len(piece) > SMALL_BYTES:
                    await self._move(spool, taken)
                await _kept(spool, piece)
            yield spool
        except _TooLargeError:
            raise _too_large(limit) from None
        finally:
            # Forgetting a large file takes its time; nobody waits for it.
            _apart.submit(spool.close)
            taken.give_back()

    async def _move(self, spool: Spool, taken: "_Taken") -> None:
        taken.file()
        try:
            await asyncio.get_running_loop().run_in_executor(_apart, spool.move)
        except OSError as error:
            raise _no_room(error) from error

    async def _piece(
        self, request: Request, left_bytes: int, taken: "_Taken"
    ) -> tuple[bytes, bool]:
        """The next piece, and whether it is the last."""
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._within_s):
                while size < PIECE_BYTES:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal("body_timeout", "The body ended early.")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > left_bytes:
                        raise _TooLargeError
                    # As it comes: many that send a little and wait are much together.
                    taken.memory(len(chunk))
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(chunks), True
        except TimeoutError:
            raise Refusal("body_timeout", "The body did not arrive in time.") from None
        return b"".join(chunks), False

    def check_files(self, source_id: int) -> None:
        """
        Raises:
            Refusal: as many are taken as there may be.
        """
        of_one = self._files[source_id]
        if self._files.total() >= FILES_AT_ONCE or of_one >= FILES_AT_ONCE // 2:
            raise Refusal("overloaded", "Too many large bodies at once.")

    def take_file(self, source_id: int) -> None:
        """
        Raises:
            Refusal: see `check_files`.
        """
        self.check_files(source_id)
        self._files[source_id] += 1

    def take_memory(self, source_id: int, size_bytes: int) -> None:
        """
        Raises:
            Refusal: too much is held.
        """
        of_one = self._held[source_id] + size_bytes
        if self.held_bytes + size_bytes > MEMORY_BYTES or of_one > MEMORY_BYTES // 2:
            raise Refusal("overloaded", "Too many bodies at once.")
        self._held[source_id] = of_one

    def give_back(self, source_id: int, files: int, size_bytes: int) -> None:
        """What one body had."""
        self._files[source_id] -= files
        self._held[source_id] -= size_bytes
        self._files += Counter()  # forgets those that have none
        self._held += Counter()


class _TooLargeError(Exception):
    pass


class _Taken:
    """What one body has of what is bounded."""

    def __init__(self, spools: Spools, source_id: int) -> None:
        self._spools = spools
        self._source_id = source_id
        self._files = 0
        self._bytes = 0

    def file(self) -> None:
        self._spools.take_file(self._source_id)
        self._files = 1
        self._spools.give_back(self._source_id, 0, self._bytes)
        self._bytes = 0

    def memory(self, size_bytes: int) -> None:
        if self._files:
            return
        self._spools.take_memory(self._source_id, size_bytes)
        self._bytes += size_bytes

    def give_back(self) -> None:
        self._spools.give_back(self._source_id, self._files, self._bytes)


async def _kept(spool: Spool, piece: bytes) -> None:
    try:
        if spool.file is None and len(piece) < _BRIEF_BYTES:
            spool.take(piece)
        else:
            await asyncio.get_running_loop().run_in_executor(_apart, spool.take, piece)
    except OSError as error:
        raise _no_room(error) from error


def _declared_bytes(request: Request) -> int:
    """What the body says that it has; 0: it does not. The server holds it to it."""
    declared = request.headers.get("content-length", "")
    # More digits than any limit has are not worth parsing, and int() would refuse them.
    return int(declared[:18]) if declared.isdecimal() else 0


def _too_large(limit: Limit) -> Refusal:
    why = f" {limit.why}" if limit.why else ""
    return Refusal("body_too_large", f"The body is larger than {limit.size_bytes} bytes.{why}")


def _no_room(error: OSError) -> Refusal:
    return Refusal("store_unavailable", f"The body cannot be kept now: {error.strerror}.")
