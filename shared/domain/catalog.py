"""
The catalog: which of the providers' products give which features.

Versioned and written by operators. Products are provider objects' own ids; nothing is ever decided
by a price, a name or the first line of a list.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.domain.payments import DEFAULT_POLICY, Policy
from shared.domain.standings import families_of, has_words
from shared.domain.states import SESSION_KIND, Item, ObjectState

UNLIMITED = "unlimited"
DEFAULT_GRACE_S = 7 * 86_400

FeatureValue = bool | int | float | str

#: Every JSON reader holds whole numbers up to here exactly.
LARGEST_NUMBER = 2**53 - 1
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def read_value(text: str) -> FeatureValue:
    """
    A feature's value as people write it: true, false, a number of 0 or more, "unlimited", or text.

    Raises:
        ValueError: a number that not every JSON reader would hold.
    """
    if text in ("true", "false"):
        return text == "true"
    if not _NUMBER.fullmatch(text):
        return text
    number = float(text) if "." in text else int(text)
    if number > LARGEST_NUMBER:
        raise ValueError(f"{text} is larger than {LARGEST_NUMBER}; write {UNLIMITED} for no limit")
    return number


def kind_of(value: FeatureValue) -> str:
    """What a value is to people. Nothing decides between values of different kinds."""
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) and value != UNLIMITED else "a number"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One plan of the catalog. `rank` decides between strings; `grace_s` is access past due,
    `lasts_s` how long a one-time purchase gives access (None: for good).
    """

    name: str
    features: Mapping[str, FeatureValue]
    grace_s: int = DEFAULT_GRACE_S
    rank: int = 0
    lasts_s: int | None = None


@dataclass(frozen=True)
class Catalog:
    """
    A version of the catalog. `plans_by_product` has keys like "stripe:prod_1"; what `added`
    features give is added up, each unit of a quantity counting, while of others the most counts.
    """

    version: int
    plans_by_product: Mapping[str, tuple[Plan, ...]]
    plans: Mapping[str, Plan] = field(default_factory=dict)
    added: frozenset[str] = frozenset()

    @classmethod
    def read(cls, version: int, document: Mapping[str, Any]) -> "Catalog":
        """
        From a stored document: {"plans": {name: {"products", "features", "graceS", "rank",
        "lastsS"}}, "features": {name: {"combine": "sum" | "max"}}}.
        """
        plans: dict[str, Plan] = {}
        by_product: dict[str, tuple[Plan, ...]] = {}
        for name, entry in sorted(document.get("plans", {}).items()):
            plans[name] = plan = Plan(
                name=name,
                features=dict(entry.get("features", {})),
                grace_s=entry.get("graceS", DEFAULT_GRACE_S),
                rank=entry.get("rank", 0),
                lasts_s=entry.get("lastsS"),
            )
            for product in entry.get("products", ()):
                by_product[product] = (*by_product.get(product, ()), plan)
        features = document.get("features", {})
        added = frozenset(name for name in features if features[name].get("combine") == "sum")
        return cls(version, by_product, plans, added)

    def kind_of(self, feature: str) -> tuple[str, str] | None:
        """Of what kind a feature's values are, and what says so; None where nothing does."""
        for plan in self.plans.values():
            if feature in plan.features:
                return kind_of(plan.features[feature]), f"plans.{plan.name}"
        return ("a number", f"features.{feature}") if feature in self.added else None

    def plans_for(self, origin: "Origin", item: Item) -> tuple[Plan, ...] | None:
        """The plans of an item, by the source's own keys first; None where nothing maps it."""
        for ref in item.refs:
            for owner in (origin.source, origin.provider):
                plans = self.plans_by_product.get(f"{owner}:{ref}")
                if plans is not None:
                    return plans
        return None

    def plans_of(
        self, origin: "Origin", kind: str, state: ObjectState
    ) -> list[tuple[Plan, int]] | None:
        """The plans that a state is worth, with quantities; None where not all of it is mapped."""
        if kind == SESSION_KIND and (state.plan is not None or state.offer is not None):
            named = self.plans.get(state.plan) if state.plan is not None else None
            if named is not None:
                return [(named, 1)]
            offered = self.plans_for(origin, Item((state.offer,))) if state.offer else None
            if offered is not None:
                return [(plan, 1) for plan in offered]
        if kind == SESSION_KIND and (state.is_partial or not state.items):
            return None
        worth = []
        for item in state.items:
            plans = self.plans_for(origin, item)
            if plans is None:
                return None
            worth += [(plan, item.quantity) for plan in plans]
        return worth


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object comes from, whether its mode is the deployment's, and its source's policy."""

    source: str
    provider: str
    is_of_mode: bool = True
    is_removed: bool = False
    policy: Policy = DEFAULT_POLICY

    def product(self, ref: str) -> str:
        """
        How a plan names a product of this source.

        By the provider; by the source where many senders share the provider, as `hmac`.
        """
        return f"{self.provider if has_words(self.provider) else self.source}:{ref}"

    @property
    def granting_kinds(self) -> frozenset[str]:
        """The one family of objects that grants."""
        return families_of(self.provider)[self.policy.grants_from]
