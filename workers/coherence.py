"""
What a declaration must be to the catalog that it becomes a part of: plans that stay although the
file does not name them count as well. Pure.
"""

from collections.abc import Mapping, Set
from typing import Any

from shared.domain.catalog import UNLIMITED
from workers.declaration import Declaration, DeclarationError, KeyPath, shown_key, shown_path


def check_products(declared: Declaration, owners: Set[str]) -> None:
    """
    Every product is a provider's or a source's.

    Raises:
        DeclarationError: one is nobody's.
    """
    for plan in declared.plans.values():
        for index, product in enumerate(plan.products):
            owner = product.partition(":")[0]
            if owner not in owners:
                raise DeclarationError(
                    ("plans", plan.name, "products", index),
                    f"{owner!r} is neither a provider nor a source;"
                    f" known: {', '.join(sorted(owners))}",
                )


def check_features(
    declared: Declaration, plans: Mapping[str, Any], features: Mapping[str, Any]
) -> None:
    """
    A feature is of one kind in all plans (nothing decides between `true` and 10), only numbers are
    added up, and whatever the file says of a feature is about one that a plan has.

    `plans` and `features` are the catalog's that would hold.

    Raises:
        DeclarationError: naming both places where two do not fit.
    """
    kinds: dict[str, tuple[str, KeyPath]] = {}
    # What the file names comes last: an error is said of what can be edited.
    for plan in sorted(plans, key=lambda name: name in declared.plans):
        for feature, value in plans[plan]["features"].items():
            path: KeyPath = ("plans", plan, "features", feature)
            kind = _kind(value)
            other, other_path = kinds.setdefault(feature, (kind, path))
            if kind != other:
                raise DeclarationError(
                    path, f"is {kind}, and {other} in {_place(declared, other_path)}"
                )
            if kind != _NUMBER and features.get(feature, {}).get("combine") == "sum":
                raise _not_to_be_added(declared, feature, kind, path)
    for feature in declared.features:
        if feature not in kinds:
            raise DeclarationError(("features", feature), "no plan has such a feature")


def _not_to_be_added(
    declared: Declaration, feature: str, kind: str, path: KeyPath
) -> DeclarationError:
    own: KeyPath = ("features", feature, "combine")
    if feature in declared.features:
        return DeclarationError(
            own, f'"sum" is for numbers, and it is {kind} in {_place(declared, path)}'
        )
    return DeclarationError(
        path, f'is {kind}, and {shown_path(own)} is "sum", which is kept and for numbers'
    )


_NUMBER = "a number"


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) and value != UNLIMITED else _NUMBER


def _place(declared: Declaration, path: KeyPath) -> str:
    """Where a plan says something, for people: "plans.basic (line 9)"."""
    plan = str(path[1])
    if plan not in declared.plans:
        return f"plans.{shown_key(plan)}, which is kept and not in this file"
    line = declared.lines.line_of(path)
    return f"plans.{shown_key(plan)}" + ("" if line is None else f" (line {line})")
