"""
The embedded Postgres: real, durable, loopback only, every role with a password of its own.

Run by root, it lives as an unprivileged user in a directory that this user could not even reach
(a home with mode 0700): on Linux it is given the open directory and knows it as
`/proc/self/fd/N`. Nothing has to be opened up, moved or copied for it.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from urllib.parse import quote

from shared import db
from shared.settings import ROLES
from workers.stack.binaries import BARE_ENVIRONMENT, NOBODY, Program, find_postgres, server_uid
from workers.stack.embedded import Server, ServerError, read_pid
from workers.stack.home import Home
from workers.stack.spawn import Child, as_user, tie

DATABASE = "sluice"
OWNER = "sluice"

#: Given on the command line, where no configuration file and no ALTER SYSTEM can weaken them.
DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "listen_addresses": "127.0.0.1",
    # No socket: its path would have to be shorter than about 100 bytes.
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
}
TUNED = {
    "shared_buffers": "128MB",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "postgres[%p] ",
}
#: `fsync` on macOS leaves the bytes in the drive's cache.
MACOS = {"wal_sync_method": "fsync_writethrough"}


class PostgresServer(Server):
    """Postgres in `home/postgres`."""

    name = "postgres"
    programs = ("postgres",)
    first_port = 54329
    stop_signal = signal.SIGINT  # "fast shutdown": rolls back what is open

    def __init__(self, home: Home, *, with_key: bool = True) -> None:
        super().__init__(home)
        self._with_key = with_key
        self._program: Program | None = None

    async def prepare(self) -> None:
        """
        Find the programs, `initdb` if there is no data yet, lock it, choose a port.

        With `with_key`, the secret key is made together with a new database, before it: a
        database without its key can therefore never be left behind by a crash.

        Raises:
            BinariesError: no Postgres, or none of the major version that made the data.
            ServerError: `initdb` failed, or an earlier server does not end.
        """
        major = self._major()
        self._program = find_postgres(major)
        if major is None:
            await self._make()
        await self.lock_data()
        # Nobody holds the lock, so whatever it names is dead, or somebody else's by now; Postgres
        # would refuse to start if that pid is alive, as pids in containers often are.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.choose_port()

    def child(self) -> Child:
        """See `Server.child`."""
        program = self._found()
        settings = {**TUNED, **DURABLE, "port": str(self.port)}
        if sys.platform == "darwin":
            settings |= MACOS
        return Child(
            name=self.name,
            argv=(
                str(program.path),
                "-D",
                self._data_as_seen(self.directory),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ),
            env=BARE_ENVIRONMENT,
            cwd=Path("/"),
            user=server_uid(),
            keep_fds=(self.directory,),
            ready=self._become_ready,
            stop_signal=self.stop_signal,
            stop_timeout_s=30.0,
            death_signal=self.stop_signal,
            stage=0,
        )

    def url(self, role: str = "owner", database: str = DATABASE) -> str:
        """
        Where `role` connects. All but "owner" can log in only after `give_logins`.

        The owner is a superuser of this server, and may make databases for tests.
        """
        name = OWNER if role == "owner" else f"sluice_{role}"
        password = quote(self.home.passwords[role], safe="")
        return f"postgresql://{name}:{password}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def urls(self) -> dict[str, str]:
        """One URL per role."""
        return {role: self.url(role) for role in ROLES}

    def left_behind(self) -> int | None:
        """See `Server.left_behind`."""
        return read_pid(self.data / "postmaster.pid")

    @property
    def major(self) -> int:
        """Of the server that runs."""
        return self._found().major

    def _major(self) -> int | None:
        try:
            return int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            if self.data.exists():
                raise ServerError(
                    f"{self.data} is not a Postgres data directory; move it away, or choose"
                    " another SLUICE_HOME"
                ) from None
            return None

    def _found(self) -> Program:
        if self._program is None:
            raise RuntimeError("postgres: prepare() comes first")
        return self._program

    def _data_as_seen(self, descriptor: int, path: Path | None = None) -> str:
        # Not /proc/self/cwd: Postgres 15 changes directory to find itself, and could not return.
        if server_uid() is not None and sys.platform == "linux":
            return f"/proc/self/fd/{descriptor}"
        return str(path or self.data)

    async def _make(self) -> None:
        draft = self.data.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        uid = server_uid()
        if uid is not None:
            os.chown(draft, uid, uid)
        descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await self._initdb(draft, descriptor)
            if self._with_key:
                self.home.make_secret_key()
            draft.rename(self.data)
        finally:
            os.close(descriptor)

    async def _initdb(self, draft: Path, descriptor: int) -> None:
        program, uid = self._found(), server_uid()
        # initdb opens the file of the password itself; this way it never lies on a disk.
        reading, writing = os.pipe()
        if uid is not None:
            with contextlib.suppress(OSError):
                os.fchown(reading, NOBODY, NOBODY)
        os.write(writing, self.home.passwords["owner"].encode() + b"\n")
        os.close(writing)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            process = await asyncio.create_subprocess_exec(
                str(program.path.with_name("initdb")),
                f"--pgdata={self._data_as_seen(descriptor, draft)}",
                f"--username={OWNER}",
                "--auth=scram-sha-256",
                "--pwfile=/dev/stdin",
                "--encoding=UTF8",
                "--data-checksums",
                *(locale if program.major >= 17 else ["--no-locale"]),
                env=BARE_ENVIRONMENT,
                cwd="/",
                stdin=reading,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(descriptor,),
                start_new_session=True,
                preexec_fn=tie(signal.SIGTERM),
                **as_user(uid),
            )
        except OSError as error:
            raise ServerError(f"initdb cannot be run (uid {uid}): {error}") from None
        finally:
            os.close(reading)
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
        if process.returncode != 0:
            raise ServerError(f"initdb failed:\n{output.decode(errors='replace').strip()}")

    async def _become_ready(self, pid: int) -> None:
        file = self.data / "postmaster.pid"
        while True:
            # What pg_ctl waits for: line 1 is the pid, line 8 the state. Connecting to find out
            # would fill the log with refusals.
            with contextlib.suppress(OSError):
                lines = file.read_text().split("\n")
                if lines[0] == str(pid) and len(lines) > 7 and lines[7].strip() == "ready":
                    break
            await asyncio.sleep(0.02)
        await self._make_database()

    async def _make_database(self) -> None:
        async with db.connect(self.url(database="postgres"), "owner") as conn:
            if not await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                await conn.execute(f"CREATE DATABASE {DATABASE}")


async def give_logins(server: PostgresServer) -> None:
    """Let the four roles, which the migrations make, log in with a password each."""
    passwords = server.home.passwords
    # A failed statement must not put a password into the log.
    settings = {"log_min_error_statement": "panic"}
    async with db.connect(server.url(), "owner", settings=settings) as conn:
        for role in ROLES:
            if role != "owner":
                # Utility statements take no parameters; the passwords are base64url.
                await conn.execute(f"ALTER ROLE sluice_{role} LOGIN PASSWORD '{passwords[role]}'")
