"""`sluice doctor` on the artifact store and who is told where that is, and on servers that hang."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import ROLES, Endpoints, Settings
from workers.stack import processes
from workers.stack.doctor import Check, examine
from workers.stack.home import Home


async def look(home: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Check:
    for name, value in {"SLUICE_HOME": str(home), **environ}.items():
        monkeypatch.setenv(name, value)
    (found,) = [check for check in await examine(set()) if check.name == "artifacts"]
    return found


async def test_the_artifact_store_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it stays."""
    found = await look(tmp_path, monkeypatch)
    assert (found.status, found.found) == (
        "ok",
        f"{tmp_path / 'artifacts'} is writable and readable",
    )
    assert not [one for one in (tmp_path / "artifacts").rglob("*") if one.is_file()]


async def test_a_store_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    url = (tmp_path / "file").as_uri()
    found = await look(tmp_path, monkeypatch, SLUICE_ARTIFACTS_URL=url)
    assert found.status == "fail"
    assert url in found.found
    assert "SLUICE_ARTIFACTS_URL" in found.mend


async def test_without_a_home_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await look(tmp_path / "home", monkeypatch)).status == "ok"
    assert not (tmp_path / "home").exists()


def test_every_process_is_told_where_artifacts_are() -> None:
    settings = Settings(artifacts_url="s3://things/sluice")
    urls = {role: f"postgresql://{role}@db/sluice" for role in ("gateway", "reader", "worker")}
    endpoints = Endpoints(database=urls, redis="", secret_key="", http="")
    children = [
        processes.gateway(settings, endpoints),
        *processes.fleet(settings, endpoints, first_admin_port=0),
    ]
    assert {child.name for child in children} >= {"gateway", "worker-1", "solitary", "jobs"}
    assert {child.env["SLUICE_ARTIFACTS_URL"] for child in children} == {"s3://things/sluice"}


@pytest.fixture
def hanging() -> Iterator[int]:
    """The port of a server that is stopped: the kernel accepts for it, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_server_that_hangs_is_not_to_be_started(
    hanging: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path))
    monkeypatch.setenv("SLUICE_DATABASE_URL", f"postgresql://x:y@127.0.0.1:{hanging}/sluice")
    monkeypatch.setenv("SLUICE_REDIS_URL", f"redis://127.0.0.1:{hanging}/0")
    checks = {check.name: check for check in await examine(set())}
    for name, variable in (("database", "SLUICE_DATABASE_URL"), ("redis", "SLUICE_REDIS_URL")):
        assert checks[name].status == "fail"
        assert checks[name].is_down
        assert "does not answer" in checks[name].found
        assert "kill -CONT" in checks[name].mend
        assert "start the server" not in checks[name].mend
        assert variable in checks[name].mend


async def test_a_stack_whose_server_hangs_is_not_to_be_started_a_second_time(
    hanging: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "home"
    monkeypatch.setenv("SLUICE_HOME", str(path))
    for name in ("SLUICE_DATABASE_URL", "SLUICE_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    home = Home.claim(path)
    url = f"postgresql://x:y@127.0.0.1:{hanging}/sluice"
    Endpoints(dict.fromkeys(ROLES, url), f"redis://127.0.0.1:{hanging}/0", "", "http://h").save(
        path
    )
    try:
        checks = {check.name: check for check in await examine(set())}
    finally:
        home.release()
    for name in ("database", "redis"):
        assert checks[name].status == "fail"
        assert "kill -CONT" in checks[name].mend
        assert f"kill {os.getpid()}" in checks[name].mend
        assert not checks[name].mend.endswith(" up")
    # And where none runs, what hangs there is nothing of ours.
    mend = {check.name: check.mend for check in await examine(set())}["database"]
    assert mend.endswith(" up")
