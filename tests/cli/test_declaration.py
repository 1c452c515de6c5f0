"""What `sluice apply` accepts, and how it says what it does not."""

from pathlib import Path

import pytest

from shared.providers import providers
from shared.sealing import KeyRing, new_key
from shared.store.configuration import Stored
from workers.declaration import (
    Declaration,
    DeclarationError,
    duration_s,
    read_declaration,
    resolve_secrets,
    shown_duration,
)
from workers.difference import compare

SOURCE = '[sources.stripe]\nprovider = "stripe"\nsecrets = ["env:S"]\nlivemode = true\n'
KNOWN = ", ".join(sorted(providers()))
PLAN = '[plans.pro]\nproducts = ["stripe:prod_1"]\nfeatures = { seats = 10 }\n'


def read(text: str) -> Declaration:
    return read_declaration(text.encode(), providers())


def test_a_whole_file_is_read() -> None:
    declared = read(
        'mode = "test"\n'
        + SOURCE
        + 'tenant = "acme"\nsettings = { grants_from = "summary", disputes = "hold" }\n'
        + '[plans.pro]\nproducts = ["stripe:prod_1", "stripe:plink_1", "stripe:prod_1"]\n'
        'features = { api_calls = 100000, ratio = 0.5, sso = true, tier = "gold",'
        ' seats = "unlimited" }\ngrace = "12h"\nlasts = "30d"\nrank = 3\n'
        '[features.api_calls]\ncombine = "sum"\n[features.tier]\n'
    )
    assert declared.mode == "test"
    source = declared.sources["stripe"]
    assert (source.provider, source.secrets, source.livemode) == ("stripe", ("env:S",), True)
    assert source.tenant == "acme"
    assert source.settings == {"grants_from": "summary", "disputes": "hold"}
    assert declared.plans["pro"].document() == {
        "products": ["stripe:prod_1", "stripe:plink_1"],
        "features": {
            "api_calls": 100000,
            "ratio": 0.5,
            "sso": True,
            "tier": "gold",
            "seats": "unlimited",
        },
        "graceS": 43_200,
        "lastsS": 30 * 86_400,
        "rank": 3,
    }
    assert {name: feature.document() for name, feature in declared.features.items()} == {
        "api_calls": {"combine": "sum"},
        "tier": {"combine": "max"},
    }


def test_the_example_is_right() -> None:
    path = Path(__file__).parents[2] / "infra/examples/sluice.toml"
    declared = read_declaration(path.read_bytes(), providers())
    keys = KeyRing.parse(new_key())
    secrets = {name: ["whsec_1"] for name in declared.sources}
    found = compare(Stored(0, "test"), declared, secrets, keys, providers(), prune=False)
    assert {change.action for change in found.changes} == {"added", "changed"}
    settings = declared.sources["stripe"].settings
    assert settings == {name: values[0] for name, values in providers()["stripe"].settings.items()}


def test_an_api_key_and_where_it_is_sent() -> None:
    bare = read(SOURCE).sources["stripe"]
    assert (bare.api_key, bare.api_base) == (None, None)
    source = read(
        SOURCE + 'api_key = "env:STRIPE_API_KEY"\napi_base = "http://127.0.0.1:8080/stripe/"\n'
    ).sources["stripe"]
    assert (source.api_key, source.api_base) == (
        "env:STRIPE_API_KEY",
        "http://127.0.0.1:8080/stripe",
    )
    literal = read(SOURCE + 'api_key = "sk_live_1"\napi_base = "https://[::1]:8080"\n')
    assert literal.sources["stripe"].api_base == "https://[::1]:8080"
    assert "sk_live_1" not in repr(literal)


@pytest.mark.parametrize(
    "base",
    [
        '"api.stripe.com"', '"ftp://x"', '"https://"', '"https://u:p@x"', '"https://x/?a=b"',
        '"https://x#y"', '"https://x y"', '"https://x\\nHost: y"', '"https://ü.example"', "5",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(base: str) -> None:
    with pytest.raises(DeclarationError, match=r"sources\.stripe\.api_base: must be an address"):
        read(SOURCE + f'api_key = "env:K"\napi_base = {base}\n')


@pytest.mark.parametrize("key", ['""', '" "', "1", '["env:K"]'])
def test_an_api_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(DeclarationError, match=r"sources\.stripe\.api_key: must be"):
        read(SOURCE + f"api_key = {key}\n")


def test_an_address_without_a_key_is_refused() -> None:
    with pytest.raises(DeclarationError, match="without an api_key nobody is asked there"):
        read(SOURCE + 'api_base = "https://api.stripe.com"\n')


def test_what_is_left_out_has_its_default() -> None:
    declared = read(PLAN)
    assert declared.mode is None
    assert declared.features == {}
    assert declared.plans["pro"].document() == {
        "products": ["stripe:prod_1"],
        "features": {"seats": 10},
        "graceS": 7 * 86_400,
        "rank": 0,
    }


LIMIT = 'is not a limit; 0 or more, and "unlimited" for no limit'
FEATURE = "[features.seats]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode = \n", ", line 1: not TOML: Invalid value (column 8)"),
        ('mode = "live"\n[plans\n', ", line 2: not TOML: Expected ']'"),
        ("a = 1\na = 2\n", ", line 2: not TOML: Cannot overwrite a value (column 6)"),
        ("a = [", ": not TOML: "),
        ("a = " + "[" * 5000, ": not readable: nested too deeply"),
        ('mode = "prod"\n', """, line 1: mode: 'prod' is neither "live" nor "test\""""),
        ("\nnodes = 1\n", ", line 2: nodes: unknown key; known here: features, mode, plans, sour"),
        ("sources = 3\n", ", line 1: sources: must be a table"),
        ("[sources]\nstripe = 3\n", ", line 2: sources.stripe: must be a table"),
        ("[[plans]]\n", ", line 1: plans: must be a table"),
        (
            SOURCE + "live = true\n",
            ", line 5: sources.stripe.live: unknown key; known here: api_base",
        ),
        (
            SOURCE.replace('"stripe"', '"strype"'),
            f", line 2: sources.stripe.provider: unknown provider 'strype'; known: {KNOWN}",
        ),
        (
            SOURCE.replace('provider = "stripe"\n', ""),
            f", line 1: sources.stripe.provider: is missing; known providers: {KNOWN}",
        ),
        # Which keys there are depends on the provider: it is what is wrong here.
        (
            SOURCE.replace('"stripe"', '"strype"') + 'signature = { header = "X" }\n',
            f", line 2: sources.stripe.provider: unknown provider 'strype'; known: {KNOWN}",
        ),
        (
            "\n" + SOURCE.replace("livemode = true\n", ""),
            ", line 2: sources.stripe.livemode: must be true or false: stripe has a live and a",
        ),
        (SOURCE.replace("true", '"yes"'), ", line 4: sources.stripe.livemode: must be true or f"),
        (SOURCE.replace('["env:S"]', "[]"), ", line 3: sources.stripe.secrets: must list at lea"),
        (SOURCE.replace('["env:S"]', '"env:S"'), ", line 3: sources.stripe.secrets: must list at"),
        (
            SOURCE.replace('["env:S"]', '[\n"a",\n\n" "]'),
            ", line 6: sources.stripe.secrets[1]: must be text, and not empty",
        ),
        (
            SOURCE.replace("s.stripe]", "s.Stripe]"),
            ", line 1: sources.Stripe: a source's name is part of its URL: a-z, 0-9 and -",
        ),
        (SOURCE + 'tenant = ""\n', ", line 5: sources.stripe.tenant: must be text of 1 to 255"),
        (
            SOURCE + '[sources.stripe.settings]\ngrants = "summary"\n',
            ", line 6: sources.stripe.settings.grants: unknown setting; stripe knows: disputes, fr",
        ),
        (
            SOURCE + 'settings = { disputes = "keep", grants_from = "both" }\n',
            """, line 5: sources.stripe.settings.grants_from: 'both' is not "subscriptions" or """,
        ),
        (SOURCE + "settings.disputes = true\n", ", line 5: sources.stripe.settings.disputes: True"),
        (SOURCE + "settings = 1\n", ", line 5: sources.stripe.settings: must be a table"),
        (PLAN + "price = 3\n", ", line 4: plans.pro.price: unknown key; known here: features, g"),
        (PLAN.replace('["stripe:prod_1"]', "[]"), ", line 2: plans.pro.products: must list at l"),
        (
            PLAN.replace('["stripe:prod_1"]', '[\n  "stripe:a", # one\n  "prod_1",\n]'),
            """, line 4: plans.pro.products[1]: 'prod_1' is not "PROVIDER:ID" or "SOURCE:ID\"""",
        ),
        (PLAN.replace("10", "-1"), f", line 3: plans.pro.features.seats: -1 {LIMIT}"),
        (PLAN.replace("10", "inf"), f", line 3: plans.pro.features.seats: inf {LIMIT}"),
        (PLAN.replace("10", "nan"), f", line 3: plans.pro.features.seats: nan {LIMIT}"),
        (PLAN.replace("10", "9007199254740992"), ", line 3: plans.pro.features.seats: 90071992547"),
        (PLAN.replace("10", '""'), ", line 3: plans.pro.features.seats: must be true, false, a n"),
        (PLAN.replace("10", "[1]"), ", line 3: plans.pro.features.seats: must be true, false, a"),
        (
            PLAN.replace("{ seats = 10 }", '{ "two words" = 1 }'),
            ', line 3: plans.pro.features."two words": a feature\'s name has letters, digits, _ . ',
        ),
        (PLAN.replace("pro]", '"a\\u001b"]'), ', line 1: plans."a\\u001b": a plan\'s name has l'),
        (PLAN.replace("{ seats = 10 }", "{}"), ", line 3: plans.pro.features: must name at least"),
        ("plans.pro.features.seats = 1\n", ", line 1: plans.pro.products: must list at least one"),
        (PLAN + 'grace = "7"\n', ", line 4: plans.pro.grace: '7' is not a duration; write \"90s\""),
        (PLAN + "grace = 7\n", ', line 4: plans.pro.grace: needs a unit, like "7d"'),
        (PLAN + "grace = false\n", ", line 4: plans.pro.grace: needs a unit"),
        (PLAN + 'grace = "99999d"\n', ", line 4: plans.pro.grace: 99999d is more than ten years"),
        (PLAN + "\nlasts = 30\n", ', line 5: plans.pro.lasts: needs a unit, like "7d"'),
        (PLAN + 'lasts = "1y"\n', ", line 4: plans.pro.lasts: '1y' is not a duration"),
        (PLAN + 'lasts = "0"\n', ", line 4: plans.pro.lasts: must be more than 0; left out, a pu"),
        (PLAN + 'lasts = "600w"\n', ", line 4: plans.pro.lasts: 600w is more than ten years"),
        (PLAN + "rank = 1.5\n", ", line 4: plans.pro.rank: must be a whole number"),
        (PLAN + "rank = true\n", ", line 4: plans.pro.rank: must be a whole number"),
        ("features = []\n", ", line 1: features: must be a table"),
        (
            FEATURE + 'combine = "min"\n',
            """, line 2: features.seats.combine: 'min' is neither "sum""",
        ),
        (
            FEATURE + "combine = [1]\n",
            """, line 2: features.seats.combine: [1] is neither "sum" nor""",
        ),
        (
            FEATURE + "sum = true\n",
            ", line 2: features.seats.sum: unknown key; known here: combine",
        ),
        ('[features."a b"]\n', ', line 1: features."a b": a feature\'s name has letters'),
    ],
)
def test_an_error_names_its_line_and_key(text: str, said: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        read(text)
    assert str(caught.value).startswith(f"sluice.toml{said}")


def test_what_is_not_utf8_is_named_by_its_line() -> None:
    with pytest.raises(DeclarationError, match=r"^my.toml, line 2: not UTF-8$"):
        read_declaration(b'mode = "live"\n# \xff\n', providers(), "my.toml")


def test_a_declaration_does_not_show_its_secrets() -> None:
    declared = read(SOURCE.replace("env:S", "whsec_literal"))
    assert "whsec_literal" not in repr(declared)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_durations(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (90, "90s"), (5400, "90m"), (604_800, "7d"), (129_600, "36h"), (86_401, "86401s")],
)
def test_durations_are_shown_as_they_are_written(seconds: int, text: str) -> None:
    assert shown_duration(seconds) == text
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "1.5h", "7 d", "7D", "1y", "٣d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_s(text)


def secrets(declared: str, environ: dict[str, str], beside: Path) -> list[str]:
    """Of a source that declares a secret of its own in line 4, and this one in line 5."""
    text = SOURCE.replace('["env:S"]', f'[\n  "whsec_1",\n  "{declared}",\n]')
    return resolve_secrets(read(text), environ, beside, providers())["stripe"]


def test_secrets_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("whsec_file\n")
    assert secrets("env:S", {"S": " whsec_env "}, tmp_path) == ["whsec_1", "whsec_env"]
    assert secrets("file:s.txt", {}, tmp_path) == ["whsec_1", "whsec_file"]
    assert secrets("whsec_literal", {}, tmp_path) == ["whsec_1", "whsec_literal"]


def test_a_secret_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "blank").write_text(" \n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    for declared, environ, said in [
        ("env:S", {}, "the environment variable S is not set"),
        ("env:S", {"S": " "}, "env:S is empty: an empty secret is one anybody can sign with"),
        ("file:gone", {}, "cannot read gone: No such file or directory"),
        ("file:blank", {}, "file:blank is empty: an empty secret is one anybody can sign with"),
        ("file:bytes", {}, "cannot read bytes: not UTF-8"),
        ("whsec_…", {}, "holds characters that no secret has: is it an example's?"),
    ]:
        with pytest.raises(DeclarationError) as caught:
            secrets(declared, environ, tmp_path)
        assert str(caught.value) == f"sluice.toml, line 5: sources.stripe.secrets[1]: {said}"
