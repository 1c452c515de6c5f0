"""Imports: rows that were pushed become what tenants have; once, in every order, and told of."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.importing import Importer, add_pushed, chunks_of, ndjson, row
from tests.support.stack import Stack


@pytest.fixture
async def importer(stack: Stack, tmp_path: Path) -> Importer:
    await add_pushed(stack)
    return Importer(stack, tmp_path)


async def test_rows_become_records(importer: Importer) -> None:
    body = ndjson([row(1), row(2, tenant=None), row(1, 5), row(1, 3), {"id": 7}])
    job = await importer.imported(body)
    assert job["state"] == "done", job
    assert (job["done"], job["failed"], job["total"]) == (5, 1, 5)
    assert job["counts"] == {"imported": 1, "parked": 1, "changed": 1, "superseded": 1}
