"""The providers this version knows: the one registry."""

from shared.providers.base import Provider
from shared.providers.stripe import Stripe

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (Stripe(),)}
