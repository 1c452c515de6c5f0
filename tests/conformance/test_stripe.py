"""Stripe stands what every provider has to."""

from pathlib import Path

from shared.conformance import ProviderConformance
from shared.providers.stripe import Stripe


class TestStripe(ProviderConformance):
    provider = Stripe
    fixtures = Path(__file__).parents[1] / "fixtures" / "stripe"
    # A null status: nobody knows what it means, and nobody is to guess.
    unknown_statuses = frozenset({"absent"})
