"""The difference between a file and what holds, without a database."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.providers import providers
from shared.sealing import API_KEY_SLOT, KeyRing, new_key
from shared.store.configuration import SealedSecret, Stored, StoredSource
from shared.store.source_keys import SourceKey
from workers.declaration import Declaration, DeclarationError, read_declaration
from workers.difference import NO_KEYS, ApiKeys, Difference, compare

KEYS = KeyRing.parse(new_key())
PLAN: dict[str, Any] = {
    "products": ["stripe:prod_1"],
    "features": {"seats": 10},
    "graceS": 604_800,
    "rank": 0,
}
FEATURES = {"seats": {"combine": "sum"}}
FILE = """
[sources.stripe]
provider = "stripe"
secrets = ["one", "two"]
livemode = true

[plans.pro]
products = ["stripe:prod_1"]
features = { seats = 10 }
"""


def sealed(slot: int, version: int, secret: str, keys: KeyRing = KEYS) -> SealedSecret:
    return SealedSecret(
        slot, version, keys.seal(secret, source="stripe", slot=slot, version=version)
    )


def stored_source(*secrets: SealedSecret) -> StoredSource:
    return StoredSource(1, "stripe", "stripe", True, None, {}, False, secrets)


HELD = Stored(
    version=4,
    mode="live",
    sources={"stripe": stored_source(sealed(0, 1, "one"), sealed(1, 1, "two"))},
    catalog_version=2,
    plans={"pro": PLAN},
    features=FEATURES,
)


def declared(text: str = FILE) -> Declaration:
    return read_declaration(text.encode(), providers())


def differ(
    stored: Stored,
    text: str = FILE,
    secrets: Sequence[str] = ("one", "two"),
    *,
    keys: KeyRing = KEYS,
    prune: bool = False,
    api_keys: ApiKeys = NO_KEYS,
) -> Difference:
    file = declared(text)
    resolved = {name: list(secrets) for name in file.sources}
    return compare(stored, file, resolved, keys, providers(), prune=prune, api_keys=api_keys)


def actions(found: Difference) -> Mapping[str, str]:
    return {f"{change.kind} {change.name}": change.action for change in found.changes}


def details(found: Difference, name: str) -> tuple[str, ...]:
    return next(change.details for change in found.changes if change.name == name)


def test_everything_is_new_at_first() -> None:
    found = differ(Stored(0, "live"))
    assert actions(found) == {"source stripe": "added", "plan pro": "added"}
    assert found.secrets["stripe"].new == ((0, "one"), (1, "two"))
    assert found.plans == {"pro": PLAN}
    assert not found.is_empty


def test_the_same_again_is_nothing() -> None:
    found = differ(HELD)
    assert actions(found) == {
        "source stripe": "unchanged",
        "plan pro": "unchanged",
        "feature seats": "kept",
    }
    assert found.is_empty
    assert not found.derives_again
    assert (found.catalog_version, found.catalog) == (
        2,
        {"plans": HELD.plans, "features": FEATURES},
    )


def test_a_secret_keeps_its_slot_wherever_it_stands() -> None:
    found = differ(HELD, secrets=["three", "two"])
    assert found.secrets["stripe"].new == ((0, "three"),)
    assert found.secrets["stripe"].gone == ()
    assert details(found, "stripe") == ("secrets: 1 written, 0 removed",)
    assert differ(HELD, secrets=["two", "one"]).is_empty


def test_a_secret_that_is_not_declared_any_more_goes() -> None:
    found = differ(HELD, secrets=["two"])
    assert found.secrets["stripe"].gone == (0,)
    assert found.secrets["stripe"].new == ()


def test_a_new_first_key_seals_what_did_not_change() -> None:
    old = new_key()
    before = KeyRing.parse(old)
    stored = replace(HELD, sources={"stripe": stored_source(sealed(0, 1, "one", before))})
    both = KeyRing.parse(f"{new_key()},{old}")
    assert differ(stored, secrets=["one"], keys=both).secrets["stripe"].new == ((0, "one"),)
    assert differ(stored, secrets=["one"], keys=before).is_empty


def test_a_secret_that_does_not_open_is_written_anew() -> None:
    moved = replace(sealed(0, 1, "one"), version=2)
    stored = replace(HELD, sources={"stripe": stored_source(moved)})
    assert differ(stored, secrets=["one"]).secrets["stripe"].new == ((0, "one"),)


LATER = datetime(2027, 1, 1, tzinfo=UTC)
OUT = replace(sealed(0, 1, "one"), retires_at=LATER)
GONE = replace(OUT, is_retired=True)
IN = replace(sealed(1, 5, "new"), added_by="token:ci")


def rotated(*secrets: SealedSecret) -> Stored:
    return replace(HELD, sources={"stripe": stored_source(*secrets)})


@pytest.mark.parametrize("out", [OUT, GONE])
def test_a_file_older_than_a_rotation_undoes_nothing(out: SealedSecret) -> None:
    """The secret that was rotated out is not written again, and the new one is not thrown away."""
    found = differ(rotated(out, IN), secrets=["one"])
    assert found.is_empty
    assert not found.replaces_rotated
    change = found.secrets["stripe"]
    assert (change.gone, change.new, change.adopted) == ((), (), ())
    assert details(found, "stripe") == (
        "secrets: the file names 0.1, which was rotated out and stays out; name the new one",
    )
    # What else it says is written beside them.
    found = differ(rotated(out, IN), secrets=["one", "other"])
    assert found.secrets["stripe"].new == ((2, "other"),)
    assert found.secrets["stripe"].gone == ()


def test_a_file_that_names_the_new_secret_has_it() -> None:
    """The old one ends when the rotation said; once it has, the next apply forgets it."""
    change = differ(rotated(OUT, IN), secrets=["new"]).secrets["stripe"]
    assert (change.gone, change.new, change.adopted) == ((), (), (1,))
    own = replace(IN, added_by=None)
    assert differ(rotated(OUT, own), secrets=["new"]).is_empty
    change = differ(rotated(GONE, own), secrets=["new"]).secrets["stripe"]
    assert (change.gone, change.new) == ((0,), ())


def test_a_rotated_secret_is_replaced_only_aloud() -> None:
    found = differ(rotated(OUT, IN), secrets=["another"])
    assert found.replaces_rotated
    assert found.secrets["stripe"].new == ((1, "another"),)
    assert "secrets: replaces 1.5, which token:ci rotated in" in details(found, "stripe")
    # The one that is being rotated out is still in its overlap.
    assert found.secrets["stripe"].gone == ()


def test_a_secret_that_was_rotated_out_and_in_again_counts_as_in() -> None:
    back = replace(sealed(2, 6, "one"), added_by="token:ci")
    middle = replace(IN, retires_at=LATER)
    change = differ(rotated(GONE, middle, back), secrets=["one"]).secrets["stripe"]
    assert (change.gone, change.new, change.adopted, change.outdated) == ((0,), (), (2,), ())


def test_no_secret_is_ever_shown() -> None:
    found = differ(HELD, secrets=["very-secret"])
    assert "very-secret" not in repr(found) + str([change.shown() for change in found.changes])


def test_what_changed_is_told() -> None:
    text = FILE.replace("livemode = true", 'livemode = false\ntenant = "acme"').replace(
        'products = ["stripe:prod_1"]\nfeatures = { seats = 10 }',
        'products = ["stripe:prod_2"]\nfeatures = { seats = 20, sso = true, tier = "gold" }\n'
        'grace = "0"\nrank = 1\nlasts = "36h"',
    )
    found = differ(HELD, 'mode = "test"\n' + text)
    assert details(found, "stripe") == ("livemode: true → false", "tenant: none → acme")
    assert details(found, "pro") == (
        "plans.pro.products: + stripe:prod_2",
        "plans.pro.products: - stripe:prod_1",
        "plans.pro.features.seats: 10 → 20",
        "plans.pro.features.sso: none → true",
        'plans.pro.features.tier: none → "gold"',
        "plans.pro.grace: 7d → 0",
        "plans.pro.lasts: none → 36h",
        "plans.pro.rank: 0 → 1",
    )
    assert details(found, "test") == ("live → test",)


def test_true_is_not_one() -> None:
    plans = {"pro": {**PLAN, "features": {"seats": True}}}
    stored = replace(HELD, plans=plans, features={})
    found = differ(stored, FILE.replace("seats = 10", "seats = 1"))
    assert found.derives_again
    assert found.plans["pro"]["features"] == {"seats": 1}
    assert details(found, "pro") == ("plans.pro.features.seats: true → 1",)


def test_a_number_is_not_its_text() -> None:
    found = differ(replace(HELD, features={}), FILE.replace("seats = 10", 'seats = "10"'))
    assert details(found, "pro") == ('plans.pro.features.seats: 10 → "10"',)
    assert found.derives_again


def test_what_the_file_does_not_name_stays_unless_pruned() -> None:
    found = differ(HELD, 'mode = "live"\n')
    named = ("source stripe", "feature seats", "plan pro")
    assert actions(found) == dict.fromkeys(named, "kept")
    assert found.is_empty
    assert found.catalog == {"plans": {"pro": PLAN}, "features": FEATURES}
    pruned = differ(HELD, 'mode = "live"\n', prune=True)
    assert actions(pruned) == dict.fromkeys(named, "removed")
    assert pruned.catalog == {"plans": {}, "features": {}}
    assert pruned.removes


def test_how_a_feature_combines_is_a_new_catalog() -> None:
    found = differ(replace(HELD, features={}), FILE + '[features.seats]\ncombine = "sum"\n')
    assert actions(found)["feature seats"] == "added"
    assert details(found, "seats") == ("combine sum",)
    assert (found.derives_again, found.catalog_version) == (True, 3)
    assert found.features == FEATURES
    back = differ(HELD, FILE + "[features.seats]\n")
    assert details(back, "seats") == ("features.seats.combine: sum → max",)
    assert back.features == {"seats": {"combine": "max"}}
    gone = differ(HELD, FILE, prune=True)
    assert (actions(gone)["feature seats"], gone.features) == ("removed", {})
    assert gone.derives_again


def test_settings_that_decide_are_a_new_catalog() -> None:
    settings = FILE.replace("livemode = true", 'livemode = true\nsettings.disputes = "keep"')
    found = differ(HELD, settings)
    assert details(found, "stripe") == ("settings.disputes: hold → keep",)
    assert (found.derives_again, found.catalog_version) == (True, 3)
    keeping = replace(stored_source(*HELD.sources["stripe"].secrets), settings={"disputes": "keep"})
    stored = replace(HELD, sources={"stripe": keeping})
    assert differ(stored, settings).is_empty
    assert details(differ(stored), "stripe") == ("settings.disputes: keep → hold",)
    assert details(differ(Stored(0, "live"), settings), "stripe")[-1] == "settings.disputes: keep"


def test_saying_a_default_changes_nothing() -> None:
    settings = FILE.replace("livemode = true", 'livemode = true\nsettings.disputes = "hold"')
    assert differ(HELD, settings).is_empty


def test_what_bears_on_no_object_derives_nothing_again() -> None:
    new = FILE + '[sources.sandbox]\nprovider = "stripe"\nsecrets = ["x"]\nlivemode = false\n'
    for stored, text in [
        (HELD, FILE.replace("livemode = true", 'livemode = true\ntenant = "acme"')),
        (HELD, new),
    ]:
        found = differ(stored, text)
        assert not found.is_empty
        assert (found.derives_again, found.catalog_version) == (False, 2)
    for text, prune in [
        (FILE.replace("true", "false"), False),
        ('mode = "test"\n' + FILE, False),
        (FILE[FILE.index("[plans") :], True),
    ]:
        assert differ(HELD, text, prune=prune).derives_again


SENDER = """
[sources.acme]
provider = "hmac"
secrets = ["one", "two"]
signature = { header = "X-A", prefix = "sha256=" }
"""


def sender(**settings: Any) -> Stored:
    secrets = tuple(
        SealedSecret(slot, 1, KEYS.seal(secret, source="acme", slot=slot, version=1))
        for slot, secret in enumerate(("one", "two"))
    )
    held = StoredSource(1, "acme", "hmac", None, None, settings, False, secrets)
    return replace(HELD, sources={"acme": held})


def test_tables_are_told_by_key_path() -> None:
    assert details(differ(Stored(0, "live"), SENDER), "acme") == (
        "provider hmac",
        "secrets: 2",
        'signature.header: "X-A"',
        'signature.prefix: "sha256="',
    )
    # As the database gives it back: keys in another order.
    same = sender(signature={"prefix": "sha256=", "header": "X-A"})
    assert differ(same, SENDER).is_empty
    event = SENDER + 'event = { id = "id", type = "header:X-\\u009b" }\n'
    other = differ(sender(signature={"header": "X-B", "encoding": "hex"}), event)
    assert details(other, "acme") == (
        'event.id: none → "id"',
        'event.type: none → "header:X-\\u009b"',
        'signature.header: "X-B" → "X-A"',
        'signature.prefix: none → "sha256="',
        'signature.encoding: "hex" → none',
    )


def test_arrays_of_tables_are_told_by_number() -> None:
    rules = [{"when": "a", "object": {"status": "a"}}, {"when": "b"}]
    stored = sender(signature={"header": "X-A", "prefix": "sha256="}, mapping=rules)
    assert details(differ(stored, SENDER), "acme") == (
        'mapping[0].when: "a" → none',
        'mapping[0].object.status: "a" → none',
        'mapping[1].when: "b" → none',
    )


def test_how_events_are_read_derives_nothing_again() -> None:
    """What was read stays as it was read: the next event is read otherwise."""
    found = differ(sender(signature={"header": "X-B"}), SENDER)
    assert not found.is_empty
    assert (found.derives_again, found.catalog_version) == (False, 2)
    # Of another provider that never had an event, too.
    text = SENDER.replace('"hmac"', '"svix"').replace("signature", "#") + 'event.id = "id"\n'
    found = differ(sender(signature={"header": "X-A"}), text)
    assert details(found, "acme") == (
        "provider: hmac → svix",
        'event.id: none → "id"',
        'signature.header: "X-A" → none',
    )
    assert not found.derives_again


def test_a_removed_source_comes_back() -> None:
    stored = replace(HELD, sources={"stripe": replace(stored_source(), removed=True)})
    found = differ(stored)
    assert actions(found)["source stripe"] == "changed"
    assert details(found, "stripe")[0] == "back from removal"


def test_a_product_must_be_somebodys() -> None:
    with pytest.raises(DeclarationError) as caught:
        differ(HELD, FILE.replace("stripe:prod_1", "strype:prod_1"))
    assert str(caught.value) == (
        "sluice.toml, line 8: plans.pro.products[0]: 'strype' is neither a provider nor a source;"
        f" known: {', '.join(sorted(providers()))}"
    )
    named = FILE.replace("sources.stripe", "sources.shop").replace("stripe:prod_1", "shop:prod_1")
    assert differ(Stored(0, "live"), named).plans["pro"]["products"] == ["shop:prod_1"]


MAX = '[plans.max]\nproducts = ["stripe:p"]\n'


@pytest.mark.parametrize(
    ("stored", "text", "said"),
    [
        (
            HELD,
            MAX + "features.seats = true\n",
            "line 3: plans.max.features.seats: is true or false, and a number in plans.pro, which"
            " is kept and not in this file",
        ),
        (
            Stored(0, "live"),
            FILE + MAX + 'features = {\n seats = "many" }\n'.replace("{\n", "{"),
            "line 12: plans.max.features.seats: is text, and a number in plans.pro (line 9)",
        ),
        (
            Stored(0, "live"),
            FILE.replace("10", "true") + '[features.seats]\ncombine = "sum"\n',
            'line 11: features.seats.combine: "sum" is for numbers, and it is true or false in'
            " plans.pro (line 9)",
        ),
        (
            HELD,
            FILE.replace("10", '"ten"'),
            'line 9: plans.pro.features.seats: is text, and features.seats.combine is "sum", which'
            " is kept and for numbers",
        ),
        (
            replace(HELD, plans={"pro": {**PLAN, "features": {"seats": "ten"}}}, features={}),
            '[features.seats]\ncombine = "sum"\n',
            'line 2: features.seats.combine: "sum" is for numbers, and it is text in plans.pro,'
            " which is kept and not in this file",
        ),
        (
            HELD,
            FILE + "[features.seat]\n",
            "line 10: features.seat: no plan has such a feature",
        ),
    ],
)
def test_features_mean_one_thing_in_all_plans_the_stored_ones_too(
    stored: Stored, text: str, said: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        differ(stored, text)
    assert str(caught.value) == f"sluice.toml, {said}"


def test_unlimited_is_a_number() -> None:
    found = differ(HELD, FILE + MAX + 'features = { seats = "unlimited" }\n')
    assert details(found, "max") == ('seats "unlimited"', "products: 1")


# API keys ---------------------------------------------------------------------------------------

WITH_KEY = FILE.replace("livemode = true", 'livemode = true\napi_key = "env:K"')
WITH_BASE = WITH_KEY.replace('"env:K"', '"env:K"\napi_base = "https://a.example"')


def kept(key: str, base: str | None = None, keys: KeyRing = KEYS) -> Mapping[int, SourceKey]:
    sealed_key = keys.seal(key, source="stripe", slot=API_KEY_SLOT, version=3, address=base)
    return {1: SourceKey(3, sealed_key, base)}


def test_an_api_key_comes_stays_changes_and_goes() -> None:
    new = differ(HELD, WITH_KEY, api_keys=ApiKeys({"stripe": "sk_1"}))
    assert actions(new)["source stripe"] == "changed"
    assert details(new, "stripe") == ("api key set",)
    assert new.api_keys == {"stripe": "sk_1"}
    same = differ(HELD, WITH_KEY, api_keys=ApiKeys({"stripe": "sk_1"}, kept("sk_1")))
    assert same.is_empty
    assert same.api_keys == {}
    other = differ(HELD, WITH_KEY, api_keys=ApiKeys({"stripe": "sk_2"}, kept("sk_1")))
    assert details(other, "stripe") == ("api key changed",)
    gone = differ(HELD, api_keys=ApiKeys({}, kept("sk_1")))
    assert details(gone, "stripe") == ("api key removed",)
    assert gone.api_keys == {"stripe": None}


def test_a_new_address_has_the_key_sealed_for_it() -> None:
    moved = differ(HELD, WITH_BASE, api_keys=ApiKeys({"stripe": "sk_1"}, kept("sk_1")))
    assert details(moved, "stripe") == ("api base: none → https://a.example",)
    assert moved.api_keys == {"stripe": "sk_1"}
    back = ApiKeys({"stripe": "sk_1"}, kept("sk_1", "https://a.example"))
    assert differ(HELD, WITH_BASE, api_keys=back).is_empty
    assert differ(HELD, WITH_KEY, api_keys=back).api_keys == {"stripe": "sk_1"}


def test_an_api_key_of_an_older_or_lost_sealing_key_is_written_anew() -> None:
    old = new_key()
    both = KeyRing.parse(f"{new_key()},{old}")
    before = ApiKeys({"stripe": "sk_1"}, kept("sk_1", keys=KeyRing.parse(old)))
    stored = replace(HELD, sources={"stripe": stored_source(sealed(0, 1, "one", both))})
    anew = differ(stored, WITH_KEY, ["one"], keys=both, api_keys=before)
    assert details(anew, "stripe") == ("api key sealed anew",)
    lost = differ(HELD, WITH_KEY, api_keys=before)
    assert lost.api_keys == {"stripe": "sk_1"}


def test_an_api_key_that_was_not_resolved_is_no_reason_to_remove_one() -> None:
    with pytest.raises(KeyError):
        differ(HELD, WITH_KEY, api_keys=ApiKeys({}, kept("sk_1")))
