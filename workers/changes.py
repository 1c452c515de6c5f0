"""How a catalog's plans and features change, in words. Pure."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workers.declaration import COMBINES, shown_duration, shown_path

Action = Literal["added", "changed", "unchanged", "removed", "kept"]


@dataclass(frozen=True, slots=True)
class Change:
    """
    One line of the difference. `kind` is "mode", "source", "feature" or "plan". A "kept" one is
    not in the file and would be removed by pruning. `details` never hold a secret.
    """

    kind: str
    name: str
    action: Action
    details: tuple[str, ...] = ()

    @property
    def is_written(self) -> bool:
        """Whether an apply would write anything for it."""
        return self.action not in ("unchanged", "kept")

    def shown(self) -> dict[str, Any]:
        """As `--json` and the audit record have it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "action": self.action,
            "details": list(self.details),
        }


def merge(
    kind: str, stored: Mapping[str, Any], declared: Mapping[str, Any], *, prune: bool
) -> tuple[dict[str, Any], list[Change]]:
    """
    The documents of one kind ("plan" or "feature") that would hold, by name, and how each of them
    changes. What is stored and not declared stays, unless pruned.
    """
    held = {name: document for name, document in stored.items() if not prune or name in declared}
    describe, compare_two = _DESCRIBED[kind]
    changes = []
    for name, document in declared.items():
        if name not in stored:
            changes.append(Change(kind, name, "added", describe(document)))
        else:
            details = compare_two(name, stored[name], document)
            action: Action = "changed" if details else "unchanged"
            changes.append(Change(kind, name, action, details))
        held[name] = document
    left: Action = "removed" if prune else "kept"
    changes += [Change(kind, name, left) for name in stored if name not in declared]
    return held, changes


def _describe_plan(document: Mapping[str, Any]) -> tuple[str, ...]:
    features = ", ".join(f"{key} {literal(value)}" for key, value in document["features"].items())
    lasts = (f"lasts {shown_duration(document['lastsS'])}",) if "lastsS" in document else ()
    return (features, f"products: {len(document['products'])}", *lasts)


def _compare_plans(
    name: str, stored: Mapping[str, Any], declared: Mapping[str, Any]
) -> tuple[str, ...]:
    path = shown_path(("plans", name))
    before, after = set(stored.get("products", ())), set(declared["products"])
    details = [f"{path}.products: + {product}" for product in sorted(after - before)]
    details += [f"{path}.products: - {product}" for product in sorted(before - after)]
    old, new = stored.get("features", {}), declared["features"]
    for key in sorted(old.keys() | new.keys()):
        was, becomes = old.get(key), new.get(key)
        # True equals 1 in Python, and is another value.
        if (type(was), was) != (type(becomes), becomes):
            feature = shown_path(("plans", name, "features", key))
            details.append(f"{feature}: {literal(was)} → {literal(becomes)}")
    for key, label in (("graceS", "grace"), ("lastsS", "lasts")):
        if stored.get(key) != declared.get(key):
            change = f"{_length(stored.get(key))} → {_length(declared.get(key))}"
            details.append(f"{path}.{label}: {change}")
    if stored.get("rank", 0) != declared["rank"]:
        details.append(f"{path}.rank: {stored.get('rank', 0)} → {declared['rank']}")
    return tuple(details)


def _describe_feature(document: Mapping[str, Any]) -> tuple[str, ...]:
    return (f"combine {document['combine']}",)


def _compare_features(
    name: str, stored: Mapping[str, Any], declared: Mapping[str, Any]
) -> tuple[str, ...]:
    before, after = stored.get("combine", COMBINES[0]), declared["combine"]
    if before == after:
        return ()
    return (f"{shown_path(('features', name, 'combine'))}: {before} → {after}",)


_DESCRIBED: Mapping[
    str,
    tuple[
        Callable[[Mapping[str, Any]], tuple[str, ...]],
        Callable[[str, Mapping[str, Any], Mapping[str, Any]], tuple[str, ...]],
    ],
] = {
    "plan": (_describe_plan, _compare_plans),
    "feature": (_describe_feature, _compare_features),
}


def _length(seconds: int | None) -> str:
    return "none" if seconds is None else shown_duration(seconds)


def literal(value: object) -> str:
    """A value as the file has it, on one line: "10" is not 10."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    return word(value)


def word(value: object) -> str:
    """A value for people, "none" where there is none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
