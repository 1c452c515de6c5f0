"""
`sluice doctor`: look at everything a stack needs, leave nothing behind, say what mends what.

Every check stands alone: one that cannot be made says so and leaves the others their turn.
"""

import io
import json
import os
import platform
import stat
import sys
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

from shared import db, migrate
from shared.artifacts import ArtifactError, Artifacts
from shared.sealing import KeyRing, SealingError
from shared.settings import ROLES, Endpoints, Settings, SettingsError
from shared.store import checkpoints
from shared.store.sources import read_seals
from workers.stack.binaries import BinariesError, Program, find_postgres, find_valkey
from workers.stack.embedded import ServerError
from workers.stack.home import holder, is_port_free
from workers.stack.up import MAKE_KEY, http_status, own_command
from workers.stack.valkey import ask

OLDEST_POSTGRES = 15
PARTITIONS_WARN, PARTITIONS_FAIL = 7, 1

DURABLE = {"fsync": "on", "full_page_writes": "on"}

READ_SETTINGS = """
SELECT current_setting('server_version_num')::int AS version, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit
"""
COUNT_STRAY_EVENTS = "SELECT count(*) FROM (SELECT FROM inbox_default LIMIT 1000) AS stray"
READ_PARTITIONS = (
    "SELECT to_regclass('public.inbox_' || day) IS NOT NULL FROM unnest($1::text[]) AS day"
)
READ_PROVIDERS = """
SELECT provider, string_agg(name, ', ' ORDER BY name) AS sources
FROM sources WHERE removed_at IS NULL GROUP BY provider ORDER BY provider
"""
READ_PAUSED = """
SELECT name, date_trunc('second', paused_at) AS since, paused_by FROM sources
WHERE paused_at IS NOT NULL AND removed_at IS NULL ORDER BY paused_at
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `mend` is a line to type, empty where nothing is wrong."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""
    is_down: bool = False  # a server that does not answer


async def examine(known: Collection[str]) -> list[Check]:
    """
    Every check, in the order in which they depend on one another; `known` are the providers that
    are installed here. Never raises for a finding.
    """
    try:
        settings = Settings.read()
    except SettingsError as error:
        return [Check("settings", "fail", str(error), "correct the variable, or unset it")]
    checks = [_python(), _platform(), _home(settings.home)]
    checks += _programs(settings)
    checks.append(await _stack(settings))
    checks.append(await _artifacts(settings))
    try:
        endpoints = Endpoints.find(settings)
    except SettingsError:
        mend = f"{own_command()} up"
        return [*checks, Check("database", "warn", "no stack runs, none is configured", mend)]
    checks += [check async for check in _database(endpoints, settings, known)]
    checks += await _redis(endpoints.redis, settings)
    return checks


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _platform() -> Check:
    libc = " ".join(platform.libc_ver()).strip()
    user = f"uid {os.geteuid()}"
    parts = [platform.system(), platform.machine(), libc, f"{os.cpu_count()} cpus", user]
    return Check("platform", "ok", ", ".join(part for part in parts if part))


def _home(path: Path) -> Check:
    path = Path(os.path.abspath(path.expanduser()))
    try:
        found = path.stat()
    except FileNotFoundError:
        return _home_to_be(path)
    except OSError as error:
        return Check("home", "fail", f"{path}: {error.strerror}", "choose another SLUICE_HOME")
    if found.st_uid != os.geteuid():
        mend = f"sudo chown -R {os.geteuid()} {path}"
        return Check("home", "fail", f"{path} belongs to uid {found.st_uid}", mend)
    if (file := _open_to_others(path)) is not None:
        return Check("home", "warn", f"{file} is open to others", f"chmod go= {file}")
    has_key = (path / "secret.key").exists() or "SLUICE_SECRET_KEY" in os.environ
    if (path / "postgres").exists() and not has_key:
        mend = f"put {path / 'secret.key'} back from a backup, or set SLUICE_SECRET_KEY"
        return Check("home", "fail", f"{path} has a database, but not its key", mend)
    return Check("home", "ok", str(path))


def _home_to_be(path: Path) -> Check:
    parent = next(place for place in path.parents if place.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return Check("home", "ok", f"{path} (made by the first `sluice up`)")
    mend = "export SLUICE_HOME=$HOME/.local/state/sluice"
    return Check("home", "fail", f"{path} cannot be made: {parent} is not writable", mend)


def _open_to_others(path: Path) -> Path | None:
    for file in (path, *(path / name for name in ("state.json", "secret.key", "endpoints.json"))):
        if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            return file
    return None


def _programs(settings: Settings) -> list[Check]:
    wanted: list[tuple[str, Callable[[], Program]]] = []
    if settings.database_url is None:
        wanted.append(("postgres", lambda: find_postgres(_data_major(settings.home))))
    if settings.redis_url is None:
        wanted.append(("valkey", find_valkey))
    checks = []
    for name, find in wanted:
        try:
            program = find()
        except BinariesError as error:
            checks.append(Check(name, "fail", error.found, error.mend))
        else:
            found = f"{program.version}, {program.origin}: {program.path}"
            checks.append(Check(name, "ok", found))
    return checks


def _data_major(home: Path) -> int | None:
    try:
        return int((home / "postgres" / "PG_VERSION").read_text())
    except (OSError, ValueError):
        return None


async def _stack(settings: Settings) -> Check:
    where = f"{settings.host}:{settings.port}"
    pid = holder(settings.home)
    if pid is None:
        if is_port_free(settings.host, settings.port):
            return Check("stack", "ok", f"none runs here; {where} is free")
        mend = f"export SLUICE_PORT={settings.port + 1}"
        return Check("stack", "warn", f"none runs here, and {where} is in use", mend)
    host, port = settings.host, settings.port
    # The stack may have been started with another SLUICE_PORT than this shell has.
    try:
        http = urlsplit(json.loads((settings.home / "endpoints.json").read_text())["http"])
        host, port = http.hostname or host, http.port or port
    except (OSError, ValueError, KeyError):
        return Check("stack", "warn", f"pid {pid} is starting", "wait for its ready line")
    try:
        status = await http_status(host, port, "/readyz")
    except OSError:
        mend = "read what the stack prints"
        return Check("stack", "fail", f"pid {pid} runs, its gateway does not answer", mend)
    found = f"pid {pid} runs, {host}:{port}/readyz answers {status}"
    if status == 200:
        return Check("stack", "ok", found)
    return Check("stack", "fail", found, f"curl http://{host}:{port}/readyz")


async def _artifacts(settings: Settings) -> Check:
    """Written, read back and taken away again: what receipt and long work need."""
    where = settings.artifacts_url or str(settings.home / "artifacts")
    if settings.artifacts_url is None and not settings.home.exists():
        return Check("artifacts", "ok", f"{where} (made with the home)")
    store = Artifacts(settings.artifacts_url, settings.home)
    # Of its own: nobody's artifact is taken away.
    content = f"sluice doctor {uuid4()}\n".encode()
    digest = sha256(content).digest()
    try:
        await store.put(io.BytesIO(content), digest, len(content))
        found = b"".join([chunk async for chunk in store.read(digest)])
        await store.remove(digest)
    except ArtifactError as error:
        mend = "correct SLUICE_ARTIFACTS_URL, its credentials, or the directory's rights"
        return Check("artifacts", "fail", f"{where}: {error}", mend)
    assert found == content  # or it were damaged
    return Check("artifacts", "ok", f"{where} is writable and readable")


async def _database(
    endpoints: Endpoints, settings: Settings, known: Collection[str]
) -> AsyncIterator[Check]:
    url = endpoints.database["owner"]
    where = _without_password(url)
    try:
        async with db.connect(url, "owner", name="sluice doctor") as conn:
            async for check in _inside(conn, where, endpoints, known):
                yield check
                if check.name == "secret key":
                    yield await _signed(conn, settings.checkpoint_every_s)
    except Exception as error:
        if not db.is_platform_fault(error) and not hasattr(error, "sqlstate"):
            raise
        variable = "SLUICE_DATABASE_URL" if settings.database_url else None
        yield _down("database", where, error, variable, settings.home)
        return
    for role in ROLES[1:]:
        yield await _role(endpoints, role)


def _down(name: str, where: str, error: Exception, variable: str | None, home: Path) -> Check:
    """No answer of the server at `variable`, or of a stack's own. One that hangs is not started."""
    hangs = isinstance(error, TimeoutError)
    pid = None if variable else holder(home)
    last = f"correct {variable}" if variable else f"stop the stack (kill {pid}) and start it again"
    if not variable and pid is None:
        mend = f"{own_command()} up"
    elif hangs:
        mend = f"look at the server: its log, and `ps` (T is stopped: kill -CONT PID); or {last}"
    else:
        mend = f"start the server, or {last}" if variable else "read what the stack prints"
    found = "it does not answer" if hangs else str(error) or type(error).__name__
    return Check(name, "fail", f"{where}: {found}", mend, is_down=True)


async def _inside(
    conn: db.Conn, where: str, endpoints: Endpoints, known: Collection[str]
) -> AsyncIterator[Check]:
    row = await conn.fetchrow(READ_SETTINGS)
    assert row is not None
    major = row["version"] // 10_000
    found = f"Postgres {major}.{row['version'] % 10_000} at {where}"
    if major < OLDEST_POSTGRES:
        yield Check("database", "fail", found, f"use Postgres {OLDEST_POSTGRES} or newer")
    else:
        yield Check("database", "ok", found)
    yield _durability(row)

    try:
        waiting = await migrate.pending(conn)
    except migrate.MigrationError as error:
        yield Check("migrations", "fail", str(error), "install the version that fits the database")
        return
    if waiting:
        names = ", ".join(f"{migration.number:04d}" for migration in waiting)
        mend = f"{own_command()} db migrate"
        yield Check("migrations", "fail", f"pending: {names}", mend)
        return
    yield Check("migrations", "ok", f"{len(migrate.available())} applied, none pending")
    yield await _partitions(conn)
    yield await _providers(conn, known)
    yield await _key(conn, endpoints.secret_key)
    yield await _paused(conn)


def _durability(row: db.Row) -> Check:
    values = {name: row[name] for name in (*DURABLE, "synchronous_commit")}
    found = ", ".join(f"{name} {value}" for name, value in values.items())
    wrong = [name for name, value in DURABLE.items() if values[name] != value]
    if values["synchronous_commit"] == "off":
        wrong.append("synchronous_commit")
    if not wrong:
        return Check("durability", "ok", found)
    mend = " ".join(f"ALTER SYSTEM SET {name} = on;" for name in wrong)
    return Check("durability", "fail", found, f"{mend} SELECT pg_reload_conf();")


async def _partitions(conn: db.Conn) -> Check:
    today = datetime.now(UTC).date()
    days = [f"{today + timedelta(days=ahead):%Y%m%d}" for ahead in range(30)]
    exist = [bool(row[0]) for row in await conn.fetch(READ_PARTITIONS, days)]
    ahead = (exist.index(False) if False in exist else len(exist)) - 1
    stray = await conn.fetchval(COUNT_STRAY_EVENTS)
    found = f"{max(ahead, 0)} days ahead" if ahead >= 0 else "none for today"
    mend = f"{own_command()} db migrate"
    if stray:
        found += f", {stray} events in the default partition"
    if ahead < PARTITIONS_FAIL:
        return Check("partitions", "fail", found, mend)
    if ahead < PARTITIONS_WARN or stray:
        return Check("partitions", "warn", found, mend)
    return Check("partitions", "ok", found)


async def _providers(conn: db.Conn, known: Collection[str]) -> Check:
    """Of every source; what is installed here may yet be missing where a gateway runs."""
    needed = {row["provider"]: row["sources"] for row in await conn.fetch(READ_PROVIDERS)}
    missing = needed.keys() - known
    if not missing:
        return Check("providers", "ok", "of every source installed here")
    found = ", ".join(f"{name} ({needed[name]})" for name in sorted(missing))
    mend = "install the package here and where gateways and workers run, and start them again"
    return Check("providers", "fail", f"not installed here: {found}", mend)


async def _paused(conn: db.Conn) -> Check:
    rows = await conn.fetch(READ_PAUSED)
    if not rows:
        return Check("sources", "ok", "none is paused")
    found = ", ".join(
        f"{row['name']} since {row['since']:%Y-%m-%dT%H:%M:%SZ} by {row['paused_by']}"
        for row in rows
    )
    mend = f"{own_command()} sources resume {rows[0]['name']} --reason WHY"
    return Check("sources", "warn", f"paused: {found}", mend)


async def _key(conn: db.Conn, text: str) -> Check:
    if not text:
        return Check("secret key", "fail", "SLUICE_SECRET_KEY is not set", MAKE_KEY)
    seals = await read_seals(conn)
    try:
        KeyRing.parse(text).check(seals)
    except SealingError as error:
        mend = "export SLUICE_SECRET_KEY=NEW,OLD with every key that the database was sealed with"
        return Check("secret key", "fail", str(error), mend)
    return Check("secret key", "ok", f"opens what {len(seals)} key(s) have sealed")


async def _signed(conn: db.Conn, every_s: float) -> Check:
    """Whether some worker writes checkpoints; one that is late is not yet one that is missing."""
    if every_s == 0:
        return Check("audit trail", "ok", "not signed: SLUICE_CHECKPOINT_EVERY_S is 0")
    age_s = await checkpoints.unsigned_s(conn)
    if age_s <= 2 * every_s + 300:
        return Check("audit trail", "ok", "signed as far as is due")
    mend = "start a worker that has SLUICE_SECRET_KEY; its log says why it writes no checkpoint"
    return Check("audit trail", "warn", f"not signed for {age_s / 3600:.1f} hours", mend)


async def _role(endpoints: Endpoints, role: str) -> Check:
    name = f"role {role}"
    url = endpoints.database[role]
    try:
        async with db.connect(url, role, name="sluice doctor") as conn:
            acts_as = await conn.fetchval("SELECT current_user")
    except Exception as error:
        if not db.is_platform_fault(error) and not hasattr(error, "sqlstate"):
            raise
        user = urlsplit(url).username or "the user of SLUICE_DATABASE_URL"
        mend = f'GRANT sluice_{role} TO "{user}";'
        if user == f"sluice_{role}":
            mend = f"ALTER ROLE sluice_{role} LOGIN PASSWORD '…'; with the password of its URL"
        return Check(name, "fail", str(error) or type(error).__name__, mend)
    return Check(name, "ok", f"acts as {acts_as}")


async def _redis(url: str, settings: Settings) -> list[Check]:
    if not url:
        mend = "export SLUICE_REDIS_URL=redis://HOST:6379/0"
        return [Check("redis", "fail", "SLUICE_REDIS_URL is not set", mend)]
    where = _without_password(url)
    try:
        await ask(url, "PING")
    except (OSError, ServerError) as error:
        variable = "SLUICE_REDIS_URL" if settings.redis_url else None
        return [_down("redis", where, error, variable, settings.home)]
    checks = [Check("redis", "ok", where)]
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes"}
    for name, value in wanted.items():
        try:
            reply = await ask(url, "CONFIG", "GET", name)
        except (OSError, ServerError) as error:
            # Hosted servers forbid CONFIG.
            checks.append(Check(name, "warn", f"cannot be read: {error}", f"set {name} to {value}"))
            continue
        found = str(reply[1]) if isinstance(reply, list) and len(reply) > 1 else "unknown"
        if found == value:
            checks.append(Check(name, "ok", found))
        else:
            checks.append(Check(name, "warn", found, f"redis-cli CONFIG SET {name} {value}"))
    return checks


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}{parts.path}"
