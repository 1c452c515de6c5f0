"""What the commands say of packages that are missing, or that cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

from shared import db
from shared.settings import Endpoints
from tests.cli.conftest import Sluice
from tests.support.stack import Stack
from tests.unit.test_installed import MODULE, install, packages

__all__ = ["packages"]  # a fixture

SCHEMA = """
CREATE SCHEMA acme;
CREATE TABLE acme.usage (units int NOT NULL);
GRANT USAGE ON SCHEMA acme TO sluice_extension;
"""


async def test_what_cannot_be_used_is_one_line(stack: Stack, home: Path, packages: Path) -> None:
    """Which package, and why; and no traceback."""
    install(packages, "broken_import", "early", "import nothing_of_that_name\n")
    listening = MODULE.format(word="Odd", name="odd") + '    listens_to = ("usage",)\n'
    install(packages, "odd_listener", "odd", listening)
    said = subprocess.run(
        [sys.executable, "-m", "workers.cli", "handlers", "list"],
        env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = (line for line in said.stderr.splitlines() if "cannot be used" in line)
    assert first == (
        "sluice: an installed package cannot be used: early (broken_import:Handles):"
        " ModuleNotFoundError: No module named 'nothing_of_that_name'"
    )
    assert second.startswith("sluice: an installed handler cannot be used: odd: ValueError:")
    assert "Traceback" not in said.stderr


async def test_a_source_without_its_provider_is_said(stack: Stack, sluice: Sluice) -> None:
    """It answers 503, so a list of sources, and the doctor, name what is missing."""
    async with stack.owner.connection() as conn:
        await conn.execute("INSERT INTO sources (name, provider) VALUES ('parcels', 'parcelhub')")
    said = await sluice("sources", "list")
    assert "parcels: its provider parcelhub is not installed here" in said.err
    checks = (await sluice("doctor", "--json")).json["checks"]
    (check,) = (check for check in checks if check["name"] == "providers")
    assert (check["status"], check["found"]) == ("fail", "not installed here: parcelhub (parcels)")


async def test_a_file_of_tables_is_run(
    stack: Stack, sluice: Sluice, endpoints: Endpoints, tmp_path: Path
) -> None:
    """As the owner, and in one transaction: all of it, or nothing."""
    file = tmp_path / "schema.sql"
    file.write_text(SCHEMA)
    said = await sluice("db", "run", file)
    assert (said.code, said.out) == (0, ""), said.err
    file.write_text("CREATE TABLE acme.more (units int);\nSELECT nothing;\n")
    said = await sluice("db", "run", file)
    assert said.code == 1
    assert 'column "nothing" does not exist' in said.err
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        assert await conn.fetchval("SELECT to_regclass('acme.usage') IS NOT NULL")
        assert await conn.fetchval("SELECT to_regclass('acme.more') IS NULL")
    assert "cannot be read" in (await sluice("db", "run", tmp_path / "none.sql")).err
