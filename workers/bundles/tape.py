"""
The file of a bundle: a tar of which no byte is free, so that every change of it shows.

Headers as POSIX ustar has them, and all alike: no owner, no time. The last two members list the
others and sign the list.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterable
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from shared.signing import SigningKey

PURPOSE = "sluice.bundle.1"

_BLOCK = 512
_IN_MEMORY_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20


class Tape:
    """Members, one after the other, into a file that is open for writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._listed: list[dict[str, Any]] = []
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def add(self, name: str, content: bytes) -> None:
        """One member; names are ASCII, and of 100 characters at most."""
        self._begin(name, len(content))
        self._write(content)
        self._end(name, len(content), hashlib.sha256(content).hexdigest())

    def add_json(self, name: str, content: Any) -> None:
        """One JSON document, for people too."""
        self.add(name, json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n")

    def add_file(self, name: str, file: IO[bytes]) -> None:
        """What was written into a file, from its beginning."""
        size = file.tell()
        file.seek(0)
        self._begin(name, size)
        hashed = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            hashed.update(piece)
            self._write(piece)
        self._end(name, size, hashed.hexdigest())

    def add_lines(self, name: str, lines: Iterable[Any]) -> None:
        """A JSON document a line."""
        with spool() as file:
            for line in lines:
                write_line(file, line)
            self.add_file(name, file)

    def finish(self, key: SigningKey, about: dict[str, Any]) -> str:
        """List the members, sign the list and end the file; its SHA-256 in hex."""
        manifest = {"format": PURPOSE, **about, "key": key.id, "members": list(self._listed)}
        content = json.dumps(manifest, ensure_ascii=False, indent=1).encode() + b"\n"
        self.add("MANIFEST.json", content)
        self.add("MANIFEST.sig", key.sign(PURPOSE, content))
        self._write(bytes(2 * _BLOCK))
        return self._digest.hexdigest()

    def _begin(self, name: str, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        self._write(info.tobuf(tarfile.USTAR_FORMAT, "ascii"))

    def _end(self, name: str, size: int, digest: str) -> None:
        self._write(bytes(-size % _BLOCK))
        self._listed.append({"name": name, "bytes": size, "sha256": digest})

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size_bytes += len(content)


def spool() -> "SpooledTemporaryFile[bytes]":
    """A file for what a member will be: its size stands before it."""
    return SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)


def write_line(file: IO[bytes], line: Any) -> None:
    """One JSON document and its end."""
    file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
