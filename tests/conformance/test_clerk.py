"""Clerk stands what every provider has to."""

from pathlib import Path

from shared.conformance import ProviderConformance
from shared.providers.clerk import Clerk


class TestClerk(ProviderConformance):
    provider = Clerk
    fixtures = Path(__file__).parents[1] / "fixtures" / "clerk"
