"""
The difference between a declaration and the configuration that holds. Pure.

What the file does not name stays, unless pruning is asked for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shared.providers.base import Provider
from shared.sealing import API_KEY_SLOT, KeyRing, SealingError
from shared.store.configuration import Holding, Stored, StoredSource
from shared.store.source_keys import SourceKey
from workers.changes import Action, Change, literal, merge, word
from workers.coherence import check_features, check_products
from workers.declaration import Declaration, DeclaredSource, KeyPath, leaves_of, shown_path
from workers.slots import SecretChange, compare_secrets

#: More changed keys of one file are counted, not listed.
_MOST_OF_FILES = 20


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
    What an apply would do. `plans` and `features` are the catalog that would hold afterwards;
    with `derives_again` it is a new version, also where only something else changes what an
    object gives: every tenant is derived again. `api_keys` has
    the key to be written, by source; None where it goes.
    """

    base_version: int
    mode: str
    changes: tuple[Change, ...]
    secrets: Mapping[str, SecretChange]
    plans: Mapping[str, Any]
    features: Mapping[str, Any]
    catalog_version: int
    derives_again: bool
    api_keys: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    losses: tuple[Holding, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not any(change.is_written for change in self.changes)

    @property
    def catalog(self) -> dict[str, Any]:
        """The catalog's document, as it is stored."""
        return {"plans": dict(self.plans), "features": dict(self.features)}

    @property
    def removes(self) -> bool:
        """Whether something goes."""
        return any(change.action == "removed" for change in self.changes)

    @property
    def replaces_rotated(self) -> bool:
        """Whether a secret would go that was rotated in, and that the file never had."""
        return any(change.replaced for change in self.secrets.values())


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
        change, secret_changes[name] = _compare_source(
            source, before, secrets[name], keys, providers[source.provider]
        )
        key = api_keys.declared[name] if source.api_key is not None else None
        at_rest = api_keys.stored.get(before.id) if before is not None else None
        if said := _compare_key(source, key, at_rest, keys):
            key_changes[name] = key
            change = _saying_more(change, said)
        changes.append(change)
    unnamed = [
        name
        for name, source in stored.sources.items()
        if not source.removed and name not in declared.sources
    ]
    left: Action = "removed" if prune else "kept"
    changes += [Change("source", name, left) for name in unnamed]
    features, feature_changes = merge(
        "feature",
        stored.features,
        {name: feature.document() for name, feature in declared.features.items()},
        prune=prune,
    )
    plans, plan_changes = merge(
        "plan",
        stored.plans,
        {name: plan.document() for name, plan in declared.plans.items()},
        prune=prune,
    )
    with declared.lines.naming():
        check_products(declared, {*providers, *declared.sources, *(() if prune else unnamed)})
        check_features(declared, plans, features)
    derives_again = any(
        change.is_written for change in (*feature_changes, *plan_changes)
    ) or _changes_who_grants(stored, declared, providers, mode, gone=prune and bool(unnamed))
    return Difference(
        base_version=stored.version,
        mode=mode,
        changes=(*changes, *feature_changes, *plan_changes),
        secrets=secret_changes,
        plans=plans,
        features=features,
        catalog_version=stored.catalog_version + derives_again,
        derives_again=derives_again,
        api_keys=key_changes,
    )


def _changes_who_grants(
    stored: Stored,
    declared: Declaration,
    providers: Mapping[str, Provider],
    mode: str,
    *,
    gone: bool,
) -> bool:
    """Whether objects of some source give other things than before, by the same plans."""
    if mode != stored.mode or gone:
        return True
    return any(
        old is not None
        and (
            old.removed
            or old.livemode != source.livemode
            or is_told_otherwise(old, source, providers[source.provider])
        )
        for source in declared.sources.values()
        for old in (stored.sources.get(source.name),)
    )


def is_told_otherwise(stored: StoredSource, declared: DeclaredSource, provider: Provider) -> bool:
    """
    Whether the source's settings come to something else than those that hold.

    Its provider's tables do not count. They say how events are proven and read, which happens
    once, when they come: what was read is kept as observations, and deriving reads only those.
    """
    before, after = (_effective(one.settings, provider) for one in (stored, declared))
    return before != after


def _effective(named: Mapping[str, Any], provider: Provider) -> dict[str, Any]:
    """The settings that hold, the provider's defaults included."""
    defaults = {name: values[0] for name, values in provider.settings.items()}
    said = {name: value for name, value in named.items() if not _is_table(name, value, provider)}
    return {**defaults, **said}


def _compare_source(
    declared: DeclaredSource,
    stored: StoredSource | None,
    secrets: Sequence[str],
    keys: KeyRing,
    provider: Provider,
) -> tuple[Change, SecretChange]:
    wanted = list(dict.fromkeys(secrets))
    if stored is None:
        added = [f"provider {declared.provider}", f"secrets: {len(wanted)}"]
        added += [
            f"settings.{name}: {value}"
            for name, value in sorted(declared.settings.items())
            if not _is_table(name, value, provider)
        ]
        leaves = _leaves(declared.settings, provider)
        added += [
            f"{shown_path(path)}: {value}"
            for path, value in leaves.items()
            if _file_of(path, provider) is None
        ]
        added += _counted(leaves, provider)
        return Change("source", declared.name, "added", tuple(added)), SecretChange(
            new=tuple(enumerate(wanted))
        )
    details_list = ["back from removal"] if stored.removed else []
    for field_name in ("provider", "livemode", "tenant"):
        before, after = getattr(stored, field_name), getattr(declared, field_name)
        if before != after:
            details_list.append(f"{field_name}: {word(before)} → {word(after)}")
    old, new = (_effective(one.settings, provider) for one in (stored, declared))
    details_list += [
        f"settings.{name}: {word(old.get(name))} → {word(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    details_list += _compare_tables(stored.settings, declared.settings, provider)
    change = compare_secrets(stored, wanted, keys)
    details_list += change.said
    action: Action = "changed" if details_list else "unchanged"
    return Change("source", declared.name, action, (*details_list, *change.noted)), change


def _compare_tables(
    stored: Mapping[str, Any], declared: Mapping[str, Any], provider: Provider
) -> list[str]:
    old, new = (_leaves(named, provider) for named in (stored, declared))
    changed = [path for path in dict.fromkeys((*new, *old)) if old.get(path) != new.get(path)]
    in_files = [path for path in changed if _file_of(path, provider) is not None]
    hidden = frozenset(in_files if len(in_files) > _MOST_OF_FILES else ())
    shown = [
        f"{shown_path(path)}: {old.get(path, word(None))} → {new.get(path, word(None))}"
        for path in changed
        if path not in hidden
    ]
    return shown + [f"{line} changed" for line in _counted(hidden, provider)]


def _counted(paths: Iterable[KeyPath], provider: Provider) -> list[str]:
    """Of what may come from a file, how many keys: as many as they are, nobody reads them here."""
    counts = Counter(place for path in paths if (place := _file_of(path, provider)) is not None)
    return [
        f"{shown_path(place)}: {count} key{'' if count == 1 else 's'}"
        for place, count in sorted(counts.items())
    ]


def _file_of(path: KeyPath, provider: Provider) -> tuple[str, ...] | None:
    """The place of the file, or of what it stands for, that the path leads into."""
    return next((one for one in provider.files if path[: len(one)] == one), None)


def _leaves(named: Mapping[str, Any], provider: Provider) -> dict[KeyPath, str]:
    """What the tables say, by key path, as the file has it."""
    return {
        path: literal(leaf)
        for name, value in named.items()
        if _is_table(name, value, provider)
        for path, leaf in leaves_of(value, (name,))
    }


def _is_table(name: str, value: Any, provider: Provider) -> bool:
    # Where the provider changes, what is stored may be a table of the one before.
    return name in provider.tables or isinstance(value, dict | list)


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
        said.append(f"api base: {word(stored.api_base)} → {word(declared.api_base)}")
    return said


def _saying_more(change: Change, said: Sequence[str]) -> Change:
    action: Action = "changed" if change.action == "unchanged" else change.action
    return replace(change, action=action, details=(*change.details, *said))
