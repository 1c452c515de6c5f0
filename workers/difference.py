"""
The difference between a declaration and the configuration that holds. Pure.

What the file does not name stays, unless pruning is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shared.domain.catalog import UNLIMITED
from shared.providers.base import Provider
from shared.sealing import API_KEY_SLOT, KeyRing, SealingError
from shared.store.configuration import Holding, Stored, StoredSource
from shared.store.source_keys import SourceKey
from workers.declaration import Declaration, DeclarationError, DeclaredSource

Action = Literal["added", "changed", "unchanged", "removed", "kept"]


@dataclass(frozen=True, slots=True)
class Change:
    """
    One line of the difference. `kind` is "mode", "source" or "plan". A "kept" one is not in the
    file and would be removed by pruning. `details` never hold a secret.
    """

    kind: str
    name: str
    action: Action
    details: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """As `--json` and the audit record have it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "action": self.action,
            "details": list(self.details),
        }


@dataclass(frozen=True, slots=True)
class SecretChange:
    """By slot: which stay, which go; and the values that need a slot."""

    gone: tuple[int, ...] = ()
    new: tuple[tuple[int, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """
    `declared` has the key in the clear, by source, of each that declares one; `stored` what is
    kept at rest, by the source's id.
    """

    declared: Mapping[str, str] = field(default_factory=dict, repr=False)
    stored: Mapping[int, SourceKey] = field(default_factory=dict)


NO_KEYS = ApiKeys()


@dataclass(frozen=True, slots=True)
class Difference:
    """
    What an apply would do. `plans` is the catalog that would hold afterwards. `api_keys` has the
    key to be written, by source; None where it goes.
    """

    base_version: int
    mode: str
    changes: tuple[Change, ...]
    secrets: Mapping[str, SecretChange]
    plans: Mapping[str, Any]
    api_keys: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    losses: tuple[Holding, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return all(change.action in ("unchanged", "kept") for change in self.changes)

    @property
    def plans_changed(self) -> bool:
        """Whether there is a new catalog."""
        return any(
            change.kind == "plan" and change.action not in ("unchanged", "kept")
            for change in self.changes
        )

    @property
    def removes(self) -> bool:
        """Whether something goes."""
        return any(change.action == "removed" for change in self.changes)


def compare(
    stored: Stored,
    declared: Declaration,
    secrets: Mapping[str, Sequence[str]],
    keys: KeyRing,
    providers: Mapping[str, Provider],
    *,
    prune: bool,
    api_keys: ApiKeys = NO_KEYS,
) -> Difference:
    """
    The difference; `secrets` are the resolved ones by source.

    Raises:
        DeclarationError: a plan names a product of nobody, or a feature means two things.
    """
    changes: list[Change] = []
    mode = declared.mode or stored.mode
    if mode != stored.mode:
        changes.append(Change("mode", mode, "changed", (f"{stored.mode} → {mode}",)))
    secret_changes: dict[str, SecretChange] = {}
    key_changes: dict[str, str | None] = {}
    for name, source in declared.sources.items():
        before = stored.sources.get(name)
        change, secret_changes[name] = _compare_source(source, before, secrets[name], keys)
        key = api_keys.declared[name] if source.api_key is not None else None
        at_rest = api_keys.stored.get(before.id) if before is not None else None
        if said := _compare_key(source, key, at_rest, keys):
            key_changes[name] = key
            change = _saying_more(change, said)
        changes.append(change)
    left: Action = "removed" if prune else "kept"
    unnamed = [
        name
        for name, source in stored.sources.items()
        if not source.removed and name not in declared.sources
    ]
    changes += [Change("source", name, left) for name in unnamed]
    plans = {
        name: plan for name, plan in stored.plans.items() if not prune or name in declared.plans
    }
    for name, declared_plan in declared.plans.items():
        document = declared_plan.document()
        changes.append(_compare_plan(name, stored.plans.get(name), document))
        plans[name] = document
    changes += [Change("plan", name, left) for name in stored.plans if name not in declared.plans]
    owners = {*providers, *declared.sources, *(() if prune else unnamed)}
    _check_products(declared, owners)
    _check_features(plans)
    return Difference(
        base_version=stored.version,
        mode=mode,
        changes=tuple(changes),
        secrets=secret_changes,
        plans=plans,
        api_keys=key_changes,
    )


def _compare_source(
    declared: DeclaredSource, stored: StoredSource | None, secrets: Sequence[str], keys: KeyRing
) -> tuple[Change, SecretChange]:
    wanted = list(dict.fromkeys(secrets))
    if stored is None:
        details = (f"provider {declared.provider}", f"secrets: {len(wanted)}")
        return Change("source", declared.name, "added", details), SecretChange(
            new=tuple(enumerate(wanted))
        )
    details_list = ["back from removal"] if stored.removed else []
    for field_name in ("provider", "livemode", "tenant"):
        before, after = getattr(stored, field_name), getattr(declared, field_name)
        if before != after:
            details_list.append(f"{field_name}: {_word(before)} → {_word(after)}")
    names = sorted(
        name
        for name in stored.settings.keys() | declared.settings.keys()
        if stored.settings.get(name) != declared.settings.get(name)
    )
    if names:
        details_list.append(f"settings: {', '.join(names)}")
    change = _compare_secrets(stored, wanted, keys)
    if change.new or change.gone:
        details_list.append(f"secrets: {len(change.new)} written, {len(change.gone)} removed")
    action: Action = "changed" if details_list else "unchanged"
    return Change("source", declared.name, action, tuple(details_list)), change


def _compare_secrets(stored: StoredSource, wanted: Sequence[str], keys: KeyRing) -> SecretChange:
    """A secret keeps its slot while it is declared, wherever it stands in the list."""
    kept: dict[str, int] = {}
    for secret in stored.secrets:
        try:
            plaintext = keys.open(
                secret.sealed, source=stored.name, slot=secret.slot, version=secret.version
            )
        except SealingError:
            continue  # written anew: applying its file is how a damaged secret is mended
        if plaintext in wanted and plaintext not in kept and secret.sealed.key_id == keys.first:
            kept[plaintext] = secret.slot
    free = (slot for slot in range(32_767) if slot not in kept.values())
    new = tuple((next(free), value) for value in wanted if value not in kept)
    overwritten = {*kept.values(), *(slot for slot, _ in new)}
    return SecretChange(tuple(s.slot for s in stored.secrets if s.slot not in overwritten), new)


def _compare_key(
    declared: DeclaredSource, key: str | None, stored: SourceKey | None, keys: KeyRing
) -> list[str]:
    """What to say of a source's API key; nothing where it stays as it is."""
    if key is None:
        return ["api key removed"] if stored is not None else []
    base = None if declared.api_base is None else f"api base {declared.api_base}"
    if stored is None:
        return ["api key set", *([base] if base else [])]
    said = []
    try:
        plaintext = keys.open(
            stored.sealed,
            source=declared.name,
            slot=API_KEY_SLOT,
            version=stored.version,
            address=stored.api_base,
        )
    except SealingError:
        plaintext = None
    if plaintext != key:
        said.append("api key changed")
    elif stored.sealed.key_id != keys.first:
        said.append("api key sealed anew")
    if stored.api_base != declared.api_base:
        said.append(f"api base: {_word(stored.api_base)} → {_word(declared.api_base)}")
    return said


def _saying_more(change: Change, said: Sequence[str]) -> Change:
    action: Action = "changed" if change.action == "unchanged" else change.action
    return replace(change, action=action, details=(*change.details, *said))


def _compare_plan(name: str, stored: Mapping[str, Any] | None, declared: dict[str, Any]) -> Change:
    if stored is None:
        features = ", ".join(f"{key} {_word(value)}" for key, value in declared["features"].items())
        return Change("plan", name, "added", (features, f"products: {len(declared['products'])}"))
    details = []
    before, after = set(stored.get("products", ())), set(declared["products"])
    details += [f"product + {product}" for product in sorted(after - before)]
    details += [f"product - {product}" for product in sorted(before - after)]
    old, new = stored.get("features", {}), declared["features"]
    for key in sorted(old.keys() | new.keys()):
        # True equals 1 in Python, and is another value.
        if _word(old.get(key)) != _word(new.get(key)):
            details.append(f"{key}: {_word(old.get(key))} → {_word(new.get(key))}")
    for key, label in (("graceS", "grace in s"), ("rank", "rank")):
        if stored.get(key) != declared[key]:
            details.append(f"{label}: {_word(stored.get(key))} → {declared[key]}")
    return Change("plan", name, "changed" if details else "unchanged", tuple(details))


def _check_products(declared: Declaration, owners: set[str]) -> None:
    for plan in declared.plans.values():
        for index, product in enumerate(plan.products):
            owner = product.partition(":")[0]
            if owner not in owners:
                raise DeclarationError(
                    f"plans.{plan.name}.products[{index}]: {owner!r} is neither a provider nor a"
                    f" source; known: {', '.join(sorted(owners))}"
                )


def _check_features(plans: Mapping[str, Any]) -> None:
    """A feature is of one kind in all plans: nothing decides between `true` and 10."""
    kinds: dict[str, tuple[str, str]] = {}
    for plan, document in plans.items():
        for feature, value in document["features"].items():
            kind = _kind(value)
            other_kind, other_plan = kinds.setdefault(feature, (kind, plan))
            if kind != other_kind:
                raise DeclarationError(
                    f"plans.{plan}.features.{feature} is {kind}, and {other_kind} in"
                    f" plans.{other_plan}"
                )


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) and value != UNLIMITED else "a number"


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
