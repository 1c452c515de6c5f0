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
    from shared.conformance.fixtures import Fixture as Fixture
    from shared.conformance.fixtures import read_fixtures as read_fixtures
    from shared.conformance.handling import Bench as Bench
    from shared.conformance.handling import made_event as made_event
    from shared.conformance.receiver import Receiver as Receiver
    from shared.conformance.receiver import receiving as receiving
    from shared.conformance.suite import ProviderConformance as ProviderConformance
    from shared.conformance.surviving import KillSurvival as KillSurvival
    from shared.conformance.surviving import entitlements_of as entitlements_of
    from shared.db import Conn as Conn

_HOMES = {
    "Bench": "shared.conformance.handling",
    "Conn": "shared.db",
    "Fixture": "shared.conformance.fixtures",
    "KillSurvival": "shared.conformance.surviving",
    "ProviderConformance": "shared.conformance.suite",
    "Receiver": "shared.conformance.receiver",
    "entitlements_of": "shared.conformance.surviving",
    "made_event": "shared.conformance.handling",
    "read_fixtures": "shared.conformance.fixtures",
    "receiving": "shared.conformance.receiver",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(_HOMES[name]), name)
