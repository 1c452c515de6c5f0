"""One generated life: a merchant, what happens in turns, and what its tenants may use then."""

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from tests.support.model import CATALOG, Features, Model
from tests.support.stripe_objects import Customer
from tests.support.world import Merchant

#: What can happen in a life.
EVERYTHING = frozenset({"subscriptions", "trials", "purchases", "refunds", "disputes", "warnings"})

#: A step may fall into the second of the one before, or must not.
SOON, LATER = False, True
Story = Generator[bool, None, None]


@dataclass
class Life:
    """`operators` are the links that an operator makes: customer id → tenant."""

    name: str
    rng: random.Random
    merchant: Merchant
    themes: frozenset[str]
    scale_s: int
    operators: dict[str, str] = field(default_factory=dict)
    stories: list[Story] = field(default_factory=list)
    leaving: list[Customer] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)

    @property
    def told(self) -> list[bytes]:
        """Its events, in the order in which they happened."""
        return self.merchant.told

    def features(self, now_s: int, catalog: Any = CATALOG) -> dict[str, Features]:
        """What the model says of each of its tenants; all are there."""
        found = Model(self.merchant.has, self.operators, catalog).features(now_s)
        return {tenant: found.get(tenant, {}) for tenant in self.tenants}

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability
