"""Packages as if they were installed: for this process, or for those that a test starts."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.providers import providers
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


def _forget() -> None:
    importlib.invalidate_caches()
    providers.cache_clear()
    handlers.cache_clear()
