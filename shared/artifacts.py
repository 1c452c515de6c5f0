"""
The artifact store: bodies and files that are too large for the database.

A local directory, or what `SLUICE_ARTIFACTS_URL` names: "s3://bucket/prefix", "gs://…", "az://…".
Content-addressed: what lies under a SHA-256 is that content, whoever wrote it and however often, so
that writing again is harmless and nothing is ever overwritten with something else. An artifact is
written, and on disk, before the row that names it.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

CHUNK_BYTES = 4 << 20

#: The library's own three minutes are longer than anybody waits for an answer.
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}


class ArtifactError(Exception):
    """The store cannot be reached, or does not do what it should. Trying again may help."""


class ArtifactGone(ArtifactError):
    """Nothing lies under this digest. Trying again does not help."""


class ArtifactDamaged(ArtifactError):
    """What lies there is not what was written."""


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
            if not await self._has(store, path, size_bytes):
                file.seek(0)
                await obstore.put_async(store, path, file)
            if self._root is not None:
                # Of one that was there too: whoever wrote it may not have come as far as this.
                await asyncio.to_thread(_sync, self._root, self._root / path)
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
        # One that was cut short by a crash is written again.
        return bool(found["size"] == size_bytes)


def _path_of(digest: bytes) -> str:
    name = digest.hex()
    return f"sha256/{name[:2]}/{name}"


def _sync(root: Path, path: Path) -> None:
    """
    The library renames without asking the disk: a power cut would take what was acknowledged. The
    directories above may be new too.
    """
    above = [one for one in path.parents if one.is_relative_to(root)]
    for one in (path, *above):
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _text(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0][:300]
