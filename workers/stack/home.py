"""
`SLUICE_HOME`: what an embedded stack keeps between runs, readable by its owner only.

    lock            held (flock) by the stack that runs; the kernel lets go of it for the dead
    state.json      ports and passwords of the servers
    secret.key      what the secrets in the database are sealed with
    endpoints.json  where everything is, while it runs (`shared.settings.Endpoints`)
    postgres/ valkey/   the data
"""

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from shared.sealing import new_key
from shared.settings import ROLES, endpoints_path

_PORTS_TRIED = 200


class HomeError(Exception):
    """`SLUICE_HOME` cannot be used. The message says why and what to do."""


class HomeInUseError(HomeError):
    """Another stack runs in it."""


class Home:
    """A claimed `SLUICE_HOME`; nobody else has it until `release`."""

    def __init__(self, path: Path, lock: int, state: dict[str, Any]) -> None:
        self.path = path
        self._lock = lock
        self._state = state

    @classmethod
    def claim(cls, path: Path) -> Self:
        """
        Make the directory if need be, and take it for this process.

        Raises:
            HomeInUseError: a stack runs in it.
            HomeError: it belongs to somebody else, or is not a directory of its own.
        """
        path = Path(os.path.abspath(path.expanduser()))
        try:
            _make_private(path)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(
                f"SLUICE_HOME {path} cannot be used: {error.strerror};"
                " choose another: export SLUICE_HOME=$HOME/.local/state/sluice"
            ) from None
        if not _lock(lock):
            holder = os.read(lock, 20).decode(errors="replace").strip()
            os.close(lock)
            raise HomeInUseError(
                f"a stack already runs in SLUICE_HOME {path} (pid {holder});"
                " stop it, or choose another SLUICE_HOME and SLUICE_PORT"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        try:
            home = cls(path, lock, _read_state(path))
        except HomeError:
            os.close(lock)
            raise
        # Left by a stack that was killed: until this one is up, nothing is to be found here.
        endpoints_path(path).unlink(missing_ok=True)
        home._save()
        return home

    def release(self) -> None:
        """Let others have it."""
        endpoints_path(self.path).unlink(missing_ok=True)
        os.close(self._lock)

    @property
    def passwords(self) -> dict[str, str]:
        """One per role of the database, and one for "valkey"."""
        return dict(self._state["passwords"])

    def port(self, name: str, first: int) -> int:
        """The port that `name` had last time if it is free, else the first free from `first`."""
        kept = self._state["ports"].get(name)
        port = kept if kept and is_port_free("127.0.0.1", kept) else _free_port(first)
        if port != kept:
            self._state["ports"][name] = port
            self._save()
        return int(port)

    @property
    def key_path(self) -> Path:
        """The file of `secret_key`."""
        return self.path / "secret.key"

    def make_secret_key(self) -> None:
        """Generate the key, unless one has been put there. Only for a new, empty database."""
        if not self.key_path.exists():
            write_private(self.key_path, new_key() + "\n")

    def secret_key(self) -> str:
        """
        The key that the database of this home is sealed with.

        Raises:
            HomeError: the file is gone.
        """
        try:
            return self.key_path.read_text().strip()
        except OSError:
            raise HomeError(
                f"{self.key_path} is missing, and the secrets in {self.path / 'postgres'} are"
                " sealed with it: put the file back, or set SLUICE_SECRET_KEY to its content;"
                f" to begin anew with an empty database: rm -r {self.path}"
            ) from None

    def _save(self) -> None:
        write_private(self.path / "state.json", json.dumps(self._state, indent=2) + "\n")


@contextmanager
def claimed(path: Path) -> Iterator[Home]:
    """Claim a home for the length of a block."""
    home = Home.claim(path)
    try:
        yield home
    finally:
        home.release()


def holder(path: Path) -> int | None:
    """The pid of the stack that runs in this home, None if there is none."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(lock, 20).strip() or b"0")
    finally:
        os.close(lock)
    return None


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            # On Linux two sockets may be bound with SO_REUSEADDR as long as none listens.
            probe.listen(1)
    except OSError:
        return False
    return True


def write_private(path: Path, content: str) -> None:
    """Replace a file by one that only its owner can read, all at once and for good."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _lock(descriptor: int) -> bool:
    for pause_s in (0.0, 0.05, 0.1):
        time.sleep(pause_s)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # perhaps only `holder` having a look
        return True
    return False


def _make_private(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True)
        return
    except FileExistsError:
        pass
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise HomeError(
            f"SLUICE_HOME {path} belongs to uid {found.st_uid}, and this is uid {os.geteuid()};"
            " run as its owner, or choose another SLUICE_HOME"
        )
    # A worker that ran here without a stack may have kept files of its own.
    if any(one.name != "artifacts" for one in path.iterdir()) and not (path / "lock").exists():
        raise HomeError(
            f"SLUICE_HOME {path} holds other files; give Sluice a directory of its own:"
            f" export SLUICE_HOME={path / 'sluice'}"
        )
    path.chmod(0o700)


def _read_state(path: Path) -> dict[str, Any]:
    file = path / "state.json"
    try:
        state: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        if (path / "postgres").exists():
            raise HomeError(
                f"{file} is missing, and with it the passwords of the database in"
                f" {path / 'postgres'}: put the file back, or begin anew: rm -r {path}"
            ) from None
        state = {}
    except (OSError, ValueError) as error:
        raise HomeError(f"{file} cannot be read: {error}") from None
    known = state.get("passwords", {})
    state["passwords"] = {
        name: known.get(name) or secrets.token_urlsafe(24) for name in (*ROLES, "valkey")
    }
    state.setdefault("ports", {})
    return state


def _free_port(first: int) -> int:
    for port in range(first, first + _PORTS_TRIED):
        if is_port_free("127.0.0.1", port):
            return port
    raise HomeError(f"no port is free between {first} and {first + _PORTS_TRIED - 1}")
