"""
The artifact store: bodies and files that are too large for the database.

A local directory, or what `SLUICE_ARTIFACTS_URL` names: "s3://bucket/prefix", "gs://…", "az://…".
Content-addressed: what lies under a SHA-256 is that content, whoever wrote it and however often, so
that writing again is harmless and nothing is ever overwritten with something else. An artifact is
written, and on disk, before the row that names it.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

CHUNK_BYTES = 1 << 20
#: The smallest part that S3 takes. What is on its way is in memory: the library's own choice takes
#: a hundred MiB.
_PART_BYTES = 5 << 20
_PARTS_AT_ONCE = 2
_LONGEST_PAUSE_S = 0.05
_FOLDER = "sha256"
_DIGEST = re.compile("[0-9a-f]{64}")
#: Half of what must have passed before an artifact that no row names is removed.
WRITTEN_AGAIN_AFTER = timedelta(days=1)
#: The library's own three minutes are longer than anybody waits for an answer.
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}


class ArtifactError(Exception):
    """The store cannot be reached, or does not do what it should. Trying again may help."""


class ArtifactGone(ArtifactError):
    """Nothing lies under this digest. Trying again does not help."""


class ArtifactDamaged(ArtifactError):
    """What lies there is not what was written."""


class Stored(NamedTuple):
    """What lies in the store at `path`; `digest` None: a draft."""

    path: str
    digest: bytes | None
    size_bytes: int


class Artifacts:
    """One store. Opens nothing before it is asked for something."""

    def __init__(self, url: str | None, home: Path) -> None:
        self._root: Path | None = None
        self._store: Any = None
        self._url = url or (home.expanduser().absolute() / "artifacts").as_uri()

    async def put(self, file: IO[bytes], digest: bytes, size_bytes: int) -> None:
        """
        Keep the whole of `file`, whose SHA-256 and size these are. Durable when it returns.

        Raises:
            ArtifactError: see there; nothing names what may have been written.
        """
        store = await self._opened()
        path = _path_of(digest)
        try:
            if await self._has(store, path, size_bytes):
                if self._root is not None:
                    # Whoever wrote it may not have come as far as this.
                    await asyncio.to_thread(_sync_above, self._root, path)
                return
            file.seek(0)
            if self._root is not None:
                await asyncio.to_thread(_write, file, self._root, path)
                return
            await obstore.put_async(
                store, path, file, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        except (BaseError, OSError) as error:
            raise ArtifactError(f"the artifact store did not take it: {_text(error)}") from error

    async def read(self, digest: bytes) -> AsyncGenerator[bytes]:
        """
        An artifact in chunks of at most 4 MiB. After the last one it is known to be whole.

        Raises:
            ArtifactGone, ArtifactDamaged, ArtifactError: see there.
        """
        store = await self._opened()
        hashed, path = sha256(), _path_of(digest)
        try:
            size_bytes = int((await obstore.head_async(store, path))["size"])
            # One request each: of a single long one, what a slow reader takes would be its timeout.
            for start in range(0, size_bytes, CHUNK_BYTES):
                end = min(start + CHUNK_BYTES, size_bytes)
                content = bytes(await obstore.get_range_async(store, path, start=start, end=end))
                hashed.update(content)
                yield content
        except FileNotFoundError:
            raise ArtifactGone(f"no artifact {digest.hex()}") from None
        except (BaseError, OSError) as error:
            raise ArtifactError(f"the artifact store does not answer: {_text(error)}") from error
        if hashed.digest() != digest:
            raise ArtifactDamaged(f"artifact {digest.hex()} is not what was written")

    async def remove(self, digest: bytes) -> None:
        """Forget an artifact; nothing happens where there is none."""
        store = await self._opened()
        try:
            await obstore.delete_async(store, _path_of(digest))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise ArtifactError(f"the artifact store does not answer: {_text(error)}") from error

    async def older_than(self, age: timedelta) -> AsyncGenerator[Stored]:
        """
        What was written longer ago than that, drafts that were never finished included.

        Raises:
            ArtifactError: see there.
        """
        store = await self._opened()
        before = datetime.now(UTC) - age
        try:
            async for page in obstore.list(store, _FOLDER):
                for one in page:
                    if one["last_modified"] < before:
                        yield Stored(one["path"], _digest_of(one["path"]), one["size"])
        except (BaseError, OSError) as error:
            raise ArtifactError(f"the artifact store does not answer: {_text(error)}") from error

    async def remove_stored(self, stored: Stored) -> None:
        """Forget what `older_than` has found, unless it was written again since."""
        store = await self._opened()
        try:
            found = await obstore.head_async(store, stored.path)
            if found["last_modified"] > datetime.now(UTC) - WRITTEN_AGAIN_AFTER:
                return
            await obstore.delete_async(store, stored.path)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise ArtifactError(f"the artifact store does not answer: {_text(error)}") from error

    async def _opened(self) -> Any:
        if self._store is None:
            self._store = await asyncio.to_thread(self._open)
        return self._store

    def _open(self) -> Any:
        parts = urlsplit(self._url)
        try:
            if parts.scheme == "file":
                self._root = Path(parts.path)
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                return LocalStore(self._root)
            return from_url(self._url, retry_config=_RETRIES)
        except (BaseError, OSError, ValueError) as error:
            raise ArtifactError(f"SLUICE_ARTIFACTS_URL cannot be used: {_text(error)}") from error

    async def _has(self, store: Any, path: str, size_bytes: int) -> bool:
        try:
            found = await obstore.head_async(store, path)
        except FileNotFoundError:
            return False
        # One that was cut short by a crash is written again; and one that is old, so that nobody
        # takes it for forgotten between now and the row that will name it.
        is_young = found["last_modified"] > datetime.now(UTC) - WRITTEN_AGAIN_AFTER
        return bool(found["size"] == size_bytes) and is_young


def _path_of(digest: bytes) -> str:
    name = digest.hex()
    return f"{_FOLDER}/{name[:2]}/{name}"


def _digest_of(path: str) -> bytes | None:
    name = path.rpartition("/")[2]
    return bytes.fromhex(name) if _DIGEST.fullmatch(name) else None


def _write(file: IO[bytes], root: Path, name: str) -> None:
    """
    Into a directory, and on disk: the library asks nobody for that, and a power cut would take what
    was acknowledged.
    """
    path = root / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        with draft.open("xb") as target:
            while chunk := file.read(CHUNK_BYTES):
                target.write(chunk)
                target.flush()
                # All of a large file at once would hold up whoever else commits to this disk, the
                # database say: so a little at once, and half of the time is theirs.
                begun_s = monotonic()
                os.fsync(target.fileno())
                sleep(min(monotonic() - begun_s, _LONGEST_PAUSE_S))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_above(root, name)


def _sync_above(root: Path, name: str) -> None:
    """The directories that name an artifact may be new, too."""
    for directory in (root / name).parents[:3]:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _text(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0][:300]
