"""Packages as if they were installed: for this process, or for those that a test starts."""

import importlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from shared.domain.outcomes import RetryPolicy
from shared.providers import providers
from shared.settings import Endpoints
from tests.support.stack import Stack
from workers.extensions import handlers

#: On a process's path, `sluice_doing` is installed for it.
PACKAGES = Path(__file__).parents[1] / "packages"


@contextmanager
def installed() -> Iterator[None]:
    """With the packages of `tests/packages` in this process, and with no other's handlers."""
    sys.path.insert(0, str(PACKAGES))
    _forget()
    for name, handler in list(handlers().items()):
        if not (PACKAGES / f"{type(handler).__module__}.py").exists():
            del handlers()[name]
    try:
        yield
    finally:
        sys.path.remove(str(PACKAGES))
        _forget()


@asynccontextmanager
async def stack_with_package(
    endpoints: Endpoints, plans: Mapping[str, Any] | None = None
) -> AsyncIterator[Stack]:
    """A stack with the package `sluice_doing`, its tables and its source `doing`."""
    with installed():
        from sluice_doing import TABLES

        async with Stack.open(endpoints) as stack:
            stack.crew.retry = RetryPolicy(2, 0.01, 0.02)
            async with stack.owner.connection() as conn:
                await conn.execute(TABLES)
            await stack.configure(plans=plans)
            await stack.add_source("doing", "doing")
            yield stack


def _forget() -> None:
    importlib.invalidate_caches()
    providers.cache_clear()
    handlers.cache_clear()
