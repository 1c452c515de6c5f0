"""
What packages of providers and handlers are tested with: a pytest plugin and base classes.

    class TestBeacon(ProviderConformance):
        provider = Beacon
        fixtures = Path(__file__).parent / "fixtures"

Nothing of it is imported before it is asked for: pytest loads the plugin in every run of every
project in the environment. pytest, hypothesis and coverage come with the extra `testing`;
`docs/extending.md` tells how from the beginning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.conformance.suite import ProviderConformance as ProviderConformance

__all__ = ["ProviderConformance"]

_HOMES = {
    "ProviderConformance": "suite",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
