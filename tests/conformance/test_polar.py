"""Polar stands what every provider has to."""

from pathlib import Path

from shared.conformance import ProviderConformance
from shared.providers.polar import Polar


class TestPolar(ProviderConformance):
    provider = Polar
    fixtures = Path(__file__).parents[1] / "fixtures" / "polar"
