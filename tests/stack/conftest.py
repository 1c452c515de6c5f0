"""Fixtures of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.stack.processes import Notes
from workers.stack.servers import Servers, running_servers


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """An empty file of notes."""
    return Notes(tmp_path / "notes")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """Both servers, migrated, in a home of their own; a test leaves them running."""
    async with running_servers(tmp_path_factory.mktemp("servers") / "home") as running:
        await running.migrate()
        yield running
