"""Plans and features: `[plans.NAME]`, `[features.NAME]`, and durations."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.domain.catalog import DEFAULT_GRACE_S, UNLIMITED, FeatureValue
from workers.declaration.tables import DeclarationError, KeyPath, only, table_at

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_S = 10 * 366 * 86_400
_LARGEST_RANK = 2**31 - 1
#: Every JSON reader holds whole numbers up to here exactly.
_LARGEST_NUMBER = 2**53 - 1

#: How a feature's values from several objects become one; the first where nothing is said.
COMBINES = ("max", "sum")


@dataclass(frozen=True, slots=True)
class DeclaredFeature:
    """One `[features.NAME]`."""

    name: str
    combine: str = COMBINES[0]

    def document(self) -> dict[str, Any]:
        """The feature as the catalog stores it."""
        return {"combine": self.combine}


@dataclass(frozen=True, slots=True)
class DeclaredPlan:
    """
    One `[plans.NAME]`. `products` are "PROVIDER:ID" or "SOURCE:ID"; `lasts_s` is how long access
    by a one-time purchase lasts, None for good.
    """

    name: str
    products: tuple[str, ...]
    features: Mapping[str, FeatureValue]
    grace_s: int = DEFAULT_GRACE_S
    rank: int = 0
    lasts_s: int | None = None

    def document(self) -> dict[str, Any]:
        """The plan as the catalog stores it."""
        document = {
            "products": list(self.products),
            "features": dict(self.features),
            "graceS": self.grace_s,
            "rank": self.rank,
        }
        if self.lasts_s is not None:
            document["lastsS"] = self.lasts_s
        return document


def read_feature(table: Mapping[str, Any], path: KeyPath) -> DeclaredFeature:
    """
    Raises:
        DeclarationError: the table at `path` says something that is not understood.
    """
    name = _name_of(path, "a feature")
    only(table, path, {"combine"})
    combine = table.get("combine", COMBINES[0])
    if combine not in COMBINES:
        raise DeclarationError((*path, "combine"), f'{combine!r} is neither "sum" nor "max"')
    return DeclaredFeature(name, combine)


def read_plan(table: Mapping[str, Any], path: KeyPath) -> DeclaredPlan:
    """
    Raises:
        DeclarationError: the table at `path` says something that is not understood.
    """
    name = _name_of(path, "a plan")
    only(table, path, {"products", "features", "grace", "lasts", "rank"})
    products = table.get("products")
    if not isinstance(products, list) or not products:
        raise DeclarationError(
            (*path, "products"), 'must list at least one, like "stripe:prod_123"'
        )
    for index, product in enumerate(products):
        owner, _, ref = product.partition(":") if isinstance(product, str) else ("", "", "")
        if not owner or not ref.strip():
            raise DeclarationError(
                (*path, "products", index), f'{product!r} is not "PROVIDER:ID" or "SOURCE:ID"'
            )
    features = table_at(table, (*path, "features"))
    if not features:
        raise DeclarationError((*path, "features"), "must name at least one feature")
    rank = table.get("rank", 0)
    if not isinstance(rank, int) or isinstance(rank, bool) or abs(rank) > _LARGEST_RANK:
        raise DeclarationError((*path, "rank"), "must be a whole number")
    return DeclaredPlan(
        name=name,
        products=tuple(dict.fromkeys(products)),
        features={key: _value(value, (*path, "features", key)) for key, value in features.items()},
        grace_s=_grace(table, (*path, "grace")),
        rank=rank,
        lasts_s=_lasts(table, (*path, "lasts")),
    )


def duration_s(text: str) -> int:
    """
    Seconds of "90s", "30m", "12h", "7d", "2w" or "0".

    Raises:
        ValueError: it is none of these.
    """
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f'{text!r} is not a duration; write "90s", "30m", "12h", "7d", "2w" or "0"'
        )
    return int(match[1]) * _UNIT_S[match[2]]


def shown_duration(seconds: int) -> str:
    """The shortest of what `duration_s` reads, without weeks: "7d"."""
    if seconds == 0:
        return "0"
    unit = next(unit for unit in "dhms" if seconds % _UNIT_S[unit] == 0)
    return f"{seconds // _UNIT_S[unit]}{unit}"


def _name_of(path: KeyPath, whose: str) -> str:
    name = str(path[-1])
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            path, f"{whose}'s name has letters, digits, _ . and - only, at most 63 characters"
        )
    return name


def _value(value: Any, path: KeyPath) -> FeatureValue:
    _name_of(path, "a feature")
    if isinstance(value, bool) or (isinstance(value, str) and value.strip()):
        return value
    if isinstance(value, int | float):
        if math.isfinite(value) and 0 <= value <= _LARGEST_NUMBER:
            return value
        raise DeclarationError(
            path, f'{value} is not a limit; 0 or more, and "{UNLIMITED}" for no limit'
        )
    raise DeclarationError(path, "must be true, false, a number or text")


def _grace(table: Mapping[str, Any], path: KeyPath) -> int:
    grace = table.get("grace")
    if grace is None:
        return DEFAULT_GRACE_S
    if grace == 0 and not isinstance(grace, bool):
        return 0
    return _duration(grace, path)


def _lasts(table: Mapping[str, Any], path: KeyPath) -> int | None:
    lasts = table.get("lasts")
    if lasts is None:
        return None
    seconds = _duration(lasts, path)
    if seconds == 0:
        raise DeclarationError(path, "must be more than 0; left out, a purchase is for good")
    return seconds


def _duration(value: Any, path: KeyPath) -> int:
    if not isinstance(value, str):
        raise DeclarationError(path, 'needs a unit, like "7d"')
    try:
        seconds = duration_s(value)
    except ValueError as error:
        raise DeclarationError(path, str(error)) from None
    if seconds > _LONGEST_S:
        raise DeclarationError(path, f"{value} is more than ten years")
    return seconds
