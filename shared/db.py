"""
The one door to Postgres: connections, pools, roles, and what an error means.

Only this module imports asyncpg. Everything else sees `Conn`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import asyncpg

#: What a session may take of the others' time. A worker that is paused, hung or cut off from the
#: network loses its transaction, and with it its lane, after `idle_in_transaction…` or the
#: keepalives; `lock_timeout` turns every wait for a neighbour into an error that is retried.
SESSION_SETTINGS = {
    "timezone": "UTC",
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "5s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "2s",
    # The planner's JIT costs more than any statement here takes.
    "jit": "off",
}

#: For processes whose every statement is a handful of look-ups by key. A plan that was made while a
#: table was empty takes any index, or none, and a connection would keep it while the table grows
#: (measured: a backlog of 20,000 drained four times slower). Planning anew costs less than that.
LOOKUPS_ONLY = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_custom_plan",
}

Row = asyncpg.Record


class Statement(Protocol):
    """A prepared statement."""

    async def fetch(self, *args: Any, timeout: float | None = None) -> list[Row]:
        """All rows; none of a statement that returns nothing."""
        ...

    def get_statusmsg(self) -> str:
        """The command tag of what has run, as "DELETE 3"."""
        ...


class Conn(Protocol):
    """What a store function may do with a connection. Statements use `$n` only."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement; returns its command tag, as "DELETE 3"."""
        ...

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Row]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Row | None:
        """The first row, or None."""
        ...

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first column of the first row, or None."""
        ...

    async def prepare(self, query: str, *, timeout: float | None = None) -> Statement:
        """One statement, and never several: `execute` without values takes a whole script."""
        ...

    async def executemany(
        self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None
    ) -> None:
        """Run a statement once per tuple, in one round trip and all or nothing."""
        ...

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Sequence[Any]], columns: Sequence[str]
    ) -> str:
        """Insert many rows with COPY: half the work of arrays, on both sides."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Commits on leaving, rolls back on any error."""
        ...


class Database:
    """A pool of connections that all act in one role."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    async def open(
        cls,
        url: str,
        role: str,
        *,
        name: str = "sluice",
        size: int = 4,
        settings: dict[str, str] | None = None,
        answer_within_s: float = 10.0,
        resets: bool = True,
    ) -> Self:
        """
        Open a pool in the role `role` ("owner", "gateway", "reader", "worker", "operator").

        A connection that comes back is reset, in a round trip of its own; `resets=False` is for
        whoever sets nothing that outlives a transaction.

        Raises:
            Exception: whatever `unreachable` or `is_platform_fault` recognises.
        """
        pool = await asyncpg.create_pool(
            url,
            min_size=0,
            max_size=size,
            init=_set_codecs,
            reset=None if resets else _keep,
            timeout=5,
            # The server's own timeouts reach nobody behind a connection that has gone silent.
            command_timeout=answer_within_s,
            server_settings=_server_settings(url, role, name, settings),
        )
        return cls(pool)

    async def close(self) -> None:
        """Close gracefully; after 5 s, at once."""
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self, *, timeout_s: float = 5.0) -> AsyncGenerator[Conn]:
        """Borrow a connection, outside any transaction."""
        async with self._pool.acquire(timeout=timeout_s) as conn:
            yield conn

    @asynccontextmanager
    async def transaction(self, *, timeout_s: float = 5.0) -> AsyncGenerator[Conn]:
        """Borrow a connection for one transaction: commits on leaving, rolls back on any error."""
        async with self._pool.acquire(timeout=timeout_s) as conn, conn.transaction():
            yield conn


@asynccontextmanager
async def connect(
    url: str,
    role: str,
    *,
    name: str = "sluice",
    timeout_s: float = 5.0,
    settings: dict[str, str] | None = None,
) -> AsyncGenerator[Conn]:
    """Open one connection of its own, outside any pool."""
    conn = await open_connection(url, role, name=name, timeout_s=timeout_s, settings=settings)
    try:
        yield conn
    finally:
        await _close(conn)


async def open_connection(
    url: str,
    role: str,
    *,
    name: str = "sluice",
    timeout_s: float = 5.0,
    settings: dict[str, str] | None = None,
) -> Any:
    """Open one connection that the caller closes, or throws away with `terminate()`."""
    conn = await asyncpg.connect(
        url, timeout=timeout_s, server_settings=_server_settings(url, role, name, settings)
    )
    await _set_codecs(conn)
    return conn


#: Connections that are being closed; the event loop itself holds tasks only weakly.
_closing: set[asyncio.Task[None]] = set()


class Unreachable(Exception):
    """No connection could be opened. The cause is what Postgres, or the way to it, said."""


class Line:
    """
    One connection of its own: opened when it is needed, thrown away when it may be broken.

    For whoever must know within a bounded time. A pool resets a connection when it comes back,
    and would wait for a server that hangs; a line is cut instead.
    """

    def __init__(
        self, url: str, role: str, *, name: str, settings: dict[str, str] | None = None
    ) -> None:
        self._url = url
        self._role = role
        self._name = name
        self._settings = settings
        self._conn: Any = None

    @asynccontextmanager
    async def use(self, *, timeout_s: float) -> AsyncGenerator[Conn]:
        """
        Borrow the connection. Whatever fails inside, a later use starts with a sound one.

        Raises:
            Unreachable: it could not be opened.
            TimeoutError: opening and use together took longer than `timeout_s`. What was being
                done may still be done.
        """
        async with asyncio.timeout(timeout_s):
            if self._conn is None or self._conn.is_closed():
                self._conn = await self._open(timeout_s)
            try:
                yield self._conn
            except asyncpg.PostgresError:
                # Postgres answered: the connection is as good as it says itself.
                raise
            except BaseException:
                self.cut()
                raise

    def cut(self) -> None:
        """Let go of the connection at once. A statement on its way may still be executed."""
        conn, self._conn = self._conn, None
        if conn is not None:
            # In the background: closing sends the cancel request that frees the server's side,
            # which may be waiting for a standby and would not notice that we are gone.
            closing = asyncio.get_running_loop().create_task(_close(conn))
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)

    async def close(self) -> None:
        """Close politely."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await _close(conn)

    async def _open(self, timeout_s: float) -> Any:
        try:
            return await open_connection(
                self._url, self._role, name=self._name, timeout_s=timeout_s, settings=self._settings
            )
        except (OSError, EOFError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error


def storable(text: str, longest: int = 2000) -> str:
    """What Postgres can store of a text that may quote anything: no NUL, no half of a pair."""
    return text[:longest].replace("\0", "␀").encode("utf-8", "replace").decode()


def is_platform_fault(error: BaseException) -> bool:
    """
    Whether the database or the way to it failed, and not what was asked of it.

    See `_FAULT_CLASSES` and `_FAULTS`; also a pool, a socket or an answer that did not come in
    time. Trying again is right, and no event is charged.
    """
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or ""
        return state[:2] in _FAULT_CLASSES or state[:3] == "57P" or state in _FAULTS
    # asyncpg's "internal" error is what a connection answers that was cut while it was busy.
    return isinstance(
        error,
        OSError | TimeoutError | EOFError | asyncpg.InterfaceError | asyncpg.InternalClientError,
    )


#: Connections, logins, rollbacks, resources, the system around Postgres.
_FAULT_CLASSES = frozenset({"08", "28", "40", "53", "58"})
#: A lock not had in time, an idle transaction ended, a standby or read-only server, a database,
#: table or right that is not there (yet): a deployment to mend, and no event's doing.
_FAULTS = frozenset({"55P03", "25P03", "25006", "3D000", "42P01", "42501"})


def is_outage(error: BaseException) -> bool:
    """
    Whether a statement of somebody else's was failed by the platform, whatever it asked for:
    connections, deadlocks, a full disk, a server that goes away. What else `is_platform_fault`
    forgives, a missing table or right, a lock not had in time, is the statement's own doing; as is
    40001, which nothing but the statement raises in a transaction that is not serializable.
    """
    state = getattr(error, "sqlstate", None) or ""
    outages = {"25P03", "40P01", "53100"}
    return state[:2] in {"08", "58"} or state[:3] == "57P" or state in outages


def is_cancelled_statement(error: BaseException) -> bool:
    """Whether it ran longer than `statement_timeout` (57014)."""
    return getattr(error, "sqlstate", None) == "57014"


def is_lock_timeout(error: BaseException) -> bool:
    """Whether somebody else held a row for longer than `lock_timeout`."""
    return getattr(error, "sqlstate", None) == "55P03"


def is_data_error(error: BaseException) -> bool:
    """Whether a value itself was refused (22xxx, 23xxx, or asyncpg could not encode it)."""
    if isinstance(error, asyncpg.DataError | asyncpg.exceptions.DataError):
        return True
    return (getattr(error, "sqlstate", None) or "")[:2] in {"22", "23"}


def is_refused(error: BaseException) -> bool:
    """Whether the role lacks the right (42501)."""
    return getattr(error, "sqlstate", None) == "42501"


def is_unique_violation(error: BaseException) -> bool:
    """Whether a unique key already holds the row (23505)."""
    return getattr(error, "sqlstate", None) == "23505"


def is_missing_table(error: BaseException) -> bool:
    """Whether the schema lacks what the code needs: the migrations have not been run (42P01)."""
    return getattr(error, "sqlstate", None) == "42P01"


def _server_settings(
    url: str, role: str, name: str, settings: dict[str, str] | None
) -> dict[str, str]:
    wanted = {**SESSION_SETTINGS, "application_name": name, **(settings or {})}
    if role != "owner" and urlsplit(url).username != f"sluice_{role}":
        wanted["role"] = f"sluice_{role}"
    return wanted


async def _keep(conn: Any) -> None:
    """A transaction that was left open is rolled back even so, by asyncpg itself."""


async def _set_codecs(conn: Any) -> None:
    await conn.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog", format="text"
    )


async def _close(conn: Any) -> None:
    try:
        await conn.close(timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        conn.terminate()


def columns_of(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows turned into the arrays that `unnest` takes; of no rows, `width` empty ones."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]
