"""What `sluice apply` accepts, and how it says what it does not."""

from pathlib import Path

import pytest

from shared.providers import PROVIDERS
from workers.declaration import (
    Declaration,
    DeclarationError,
    duration_s,
    read_declaration,
    resolve_secret,
)

SOURCE = '[sources.stripe]\nprovider = "stripe"\nsecrets = ["env:S"]\nlivemode = true\n'
PLAN = '[plans.pro]\nproducts = ["stripe:prod_1"]\nfeatures = { seats = 10 }\n'


def read(text: str) -> Declaration:
    return read_declaration(text.encode(), PROVIDERS)


def test_a_whole_file_is_read() -> None:
    declared = read(
        'mode = "test"\n'
        + SOURCE
        + 'tenant = "acme"\nsettings = { colour = "red" }\n'
        + '[plans.pro]\nproducts = ["stripe:prod_1", "stripe:price_1", "stripe:prod_1"]\n'
        'features = { api_calls = 100000, ratio = 0.5, sso = true, tier = "gold",'
        ' seats = "unlimited" }\ngrace = "12h"\nrank = 3\n'
    )
    assert declared.mode == "test"
    source = declared.sources["stripe"]
    assert (source.provider, source.secrets, source.livemode) == ("stripe", ("env:S",), True)
    assert (source.tenant, source.settings) == ("acme", {"colour": "red"})
    assert declared.plans["pro"].document() == {
        "products": ["stripe:prod_1", "stripe:price_1"],
        "features": {
            "api_calls": 100000,
            "ratio": 0.5,
            "sso": True,
            "tier": "gold",
            "seats": "unlimited",
        },
        "graceS": 43_200,
        "rank": 3,
    }


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
    with pytest.raises(DeclarationError, match=r"sources\.stripe\.api_base must be an address"):
        read(SOURCE + f'api_key = "env:K"\napi_base = {base}\n')


@pytest.mark.parametrize("key", ['""', '" "', "1", '["env:K"]'])
def test_an_api_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(DeclarationError, match=r"sources\.stripe\.api_key must be"):
        read(SOURCE + f"api_key = {key}\n")


def test_an_address_without_a_key_is_refused() -> None:
    with pytest.raises(DeclarationError, match="without an api_key nobody is asked there"):
        read(SOURCE + 'api_base = "https://api.stripe.com"\n')


def test_what_is_left_out_has_its_default() -> None:
    declared = read(PLAN)
    assert declared.mode is None
    assert declared.plans["pro"].grace_s == 7 * 86_400
    assert declared.plans["pro"].rank == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode = \n", "not TOML: Invalid value (at line 1, column 8)"),
        ('mode = "prod"\n', "mode: 'prod' is neither"),
        ("nodes = 1\n", "nodes: unknown key; known here: mode, plans, sources"),
        ("sources = 3\n", "sources must be a table"),
        ("[sources]\nstripe = 3\n", "sources.stripe must be a table"),
        (SOURCE + "live = true\n", "sources.stripe.live: unknown key"),
        (SOURCE.replace('"stripe"', '"strype"'), "unknown provider 'strype'; known: stripe"),
        (SOURCE.replace('provider = "stripe"\n', ""), "sources.stripe.provider is missing"),
        (SOURCE.replace("livemode = true\n", ""), "sources.stripe.livemode must be true or false"),
        (SOURCE.replace("true", '"yes"'), "sources.stripe.livemode must be true or false"),
        (SOURCE.replace('["env:S"]', "[]"), "sources.stripe.secrets must list at least one"),
        (SOURCE.replace('["env:S"]', '"env:S"'), "sources.stripe.secrets must list at least one"),
        (SOURCE.replace('["env:S"]', '["a", " "]'), "sources.stripe.secrets[1] must be text"),
        (SOURCE.replace("s.stripe]", "s.Stripe]"), "sources.Stripe: a source's name"),
        (SOURCE + 'tenant = ""\n', "sources.stripe.tenant must be text"),
        (SOURCE + "settings = { a = [1] }\n", "sources.stripe.settings.a must be"),
        (PLAN + "price = 3\n", "plans.pro.price: unknown key"),
        (PLAN.replace('["stripe:prod_1"]', "[]"), "plans.pro.products must list"),
        (PLAN.replace("stripe:prod_1", "prod_1"), "plans.pro.products[0]: 'prod_1' is not"),
        (
            PLAN.replace("10", "-1"),
            'plans.pro.features.seats: -1 is not a limit; 0 or more, and "u',
        ),
        (PLAN.replace("10", "inf"), "plans.pro.features.seats: inf is not a limit"),
        (PLAN.replace("10", "nan"), "plans.pro.features.seats: nan is not a limit"),
        (PLAN.replace("10", "9007199254740992"), "plans.pro.features.seats"),
        (PLAN.replace("10", '""'), "plans.pro.features.seats must be"),
        (PLAN.replace("10", "[1]"), "plans.pro.features.seats must be"),
        (PLAN.replace("{ seats = 10 }", "{}"), "plans.pro.features must name"),
        (PLAN + 'grace = "7"\n', "plans.pro.grace: '7' is not a duration"),
        (PLAN + "grace = 7\n", "plans.pro.grace needs a unit"),
        (PLAN + "grace = false\n", "plans.pro.grace needs a unit"),
        (PLAN + 'grace = "99999d"\n', "plans.pro.grace: 99999d is more than ten years"),
        (PLAN + "rank = 1.5\n", "plans.pro.rank must be a whole number"),
        (PLAN + "rank = true\n", "plans.pro.rank must be a whole number"),
    ],
)
def test_an_error_names_its_place(text: str, said: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        read(text)
    assert said in str(caught.value)


def test_what_is_not_utf8_is_named_by_its_line() -> None:
    with pytest.raises(DeclarationError, match=r"not UTF-8 .at line 2"):
        read_declaration(b'mode = "live"\n# \xff\n', PROVIDERS)


def test_a_declaration_does_not_show_its_secrets() -> None:
    declared = read(SOURCE.replace("env:S", "whsec_literal"))
    assert "whsec_literal" not in repr(declared)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_durations(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "1.5h", "7 d", "7D", "1y", "٣d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_s(text)


def test_secrets_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("whsec_file\n")
    assert resolve_secret("env:S", "p", {"S": " whsec_env "}, tmp_path) == "whsec_env"
    assert resolve_secret("file:s.txt", "p", {}, tmp_path) == "whsec_file"
    assert resolve_secret("whsec_literal", "p", {}, tmp_path) == "whsec_literal"


def test_a_secret_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "blank").write_text(" \n")
    for declared, environ, said in [
        ("env:S", {}, "p: the environment variable S is not set"),
        ("env:S", {"S": " "}, "p (env:S) is empty"),
        ("file:gone", {}, "p: cannot read gone: No such file"),
        ("file:blank", {}, "p (file:blank) is empty"),
    ]:
        with pytest.raises(DeclarationError) as caught:
            resolve_secret(declared, "p", environ, tmp_path)
        assert said in str(caught.value)
