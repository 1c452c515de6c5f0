"""`sluice doctor` on the artifact store, and who is told where that is."""

from pathlib import Path

import pytest

from shared.settings import Endpoints, Settings
from workers.stack import processes
from workers.stack.doctor import Check, examine


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
