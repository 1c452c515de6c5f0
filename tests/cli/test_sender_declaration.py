"""What `sluice apply` says of the tables of a sender that is configuration only."""

import ast
import re
from pathlib import Path

import pytest

from shared.providers import providers
from shared.providers.base import ConfigurationError, Configured, Provider
from workers.declaration import Declaration, DeclarationError, read_declaration, resolve_secrets

SOURCE = '[sources.stripe]\nprovider = "stripe"\nsecrets = ["env:S"]\nlivemode = true\n'
HMAC = '[sources.acme]\nprovider = "hmac"\nsecrets = ["env:S"]\n'
SIGNED = HMAC + '[sources.acme.signature]\nheader = "X-A"\n'
EVENT = "[sources.acme.event]\n"
SHAKE = "[sources.acme.handshake]\n"


def read(text: str) -> Declaration:
    return read_declaration(text.encode(), providers())


def test_what_a_sender_says_is_kept_as_it_was_written() -> None:
    text = SIGNED + EVENT + 'id = "id"\n' + SHAKE + 'when = "a"\nstatus = 204\n'
    assert read(text).sources["acme"].settings == {
        "event": {"id": "id"},
        "handshake": {"when": "a", "status": 204},
        "signature": {"header": "X-A"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HMAC, ", line 1: sources.acme.signature.header: is missing: the signature's, \"X-Signatu"),
        (HMAC + "signature = 1\n", ", line 4: sources.acme.signature: must be a table"),
        (HMAC + "event = []\n", ", line 4: sources.acme.event: must be a table"),
        (
            HMAC.replace("hmac", "svix") + "signature = {}\n",
            ", line 4: sources.acme.signature: unknown key; known here: api_base, api_key, event,",
        ),
        (
            SOURCE + "event = {}\n",
            ", line 5: sources.stripe.event: unknown key; known here: api_base, api_key, livemode",
        ),
        (HMAC + "livemode = true\n", ", line 4: sources.acme.livemode: hmac has no such notion; "),
        (
            SIGNED + 'algoritm = "md5"\n',
            ", line 6: sources.acme.signature.algoritm: unknown key; known here: algorithm, encod",
        ),
        (
            SIGNED + 'algorithm = "md5"\n',
            """, line 6: sources.acme.signature.algorithm: 'md5' is not "sha256" or "sha1" or""",
        ),
        (
            SIGNED + "encoding = []\n",
            ', line 6: sources.acme.signature.encoding: [] is not "hex" o',
        ),
        (
            SIGNED.replace("X-A", "X A"),
            ", line 5: sources.acme.signature.header: 'X A' is no header's name",
        ),
        (
            SIGNED.replace('"X-A"', "1"),
            ", line 5: sources.acme.signature.header: must be text, and not empty",
        ),
        (
            SIGNED + 'prefix = "ä"\n',
            ", line 6: sources.acme.signature.prefix: must be text in prin",
        ),
        (
            SIGNED + 'signed = "{body"\n',
            ", line 6: sources.acme.signature.signed: has a { or } that names nothing",
        ),
        (
            SIGNED + 'signed = "{timestamp}.{body}"\n',
            ", line 6: sources.acme.signature.signed: has {timestamp}, and no `timestamp` says wh",
        ),
        (
            SIGNED + 'timestamp = "header:X-T"\nsigned = "{body}"\n',
            ", line 7: sources.acme.signature.signed: leaves out {timestamp}, which anybody could",
        ),
        (
            SIGNED + 'timestamp = "part:t"\n',
            ", line 6: sources.acme.signature.timestamp: is a part of its own only beside a `part",
        ),
        (
            SIGNED + 'part = "v1"\ntimestamp = "part:v1"\n',
            ", line 7: sources.acme.signature.timestamp: is a part of its own only beside a `part",
        ),
        (
            SIGNED + 'timestamp = "header: "\n',
            ", line 6: sources.acme.signature.timestamp: ' ' is no header's name",
        ),
        (
            SIGNED + 'timestamp = "a ="\n',
            ", line 6: sources.acme.signature.timestamp: not a JMESPath expression",
        ),
        (
            SIGNED + 'timestamp_unit = "ms"\n',
            ", line 6: sources.acme.signature.timestamp_unit: is of no `timestamp`",
        ),
        (
            SIGNED + 'url = "https://a.example"\n',
            ", line 6: sources.acme.signature.url: is not signed: `signed` has no {url}",
        ),
        (
            SIGNED + 'signed = "{id}{body}"\n' + EVENT + 'id = "id"\n',
            ", line 6: sources.acme.signature.signed: has {id}, and the event's id is in no header",
        ),
        (
            SIGNED + EVENT + "ident = 1\n",
            ", line 7: sources.acme.event.ident: unknown key; known h",
        ),
        (
            SIGNED + EVENT + "id = 1\n",
            ', line 7: sources.acme.event.id: must be "header:NAME" or a ',
        ),
        (
            SIGNED + EVENT + 'id = "a["\n',
            ", line 7: sources.acme.event.id: not a JMESPath expressio",
        ),
        (
            SIGNED + EVENT + 'occurred_at_unit = "s"\n',
            ", line 7: sources.acme.event.occurred_at_unit: is of no `occurred_at`",
        ),
        (
            SIGNED + EVENT + 'occurred_at = "a"\noccurred_at_unit = "ns"\n',
            """, line 8: sources.acme.event.occurred_at_unit: 'ns' is not "iso" or "s" or "ms" """,
        ),
        (SIGNED + SHAKE, ", line 6: sources.acme.handshake.when: is missing: without it all were"),
        (
            SIGNED + SHAKE + 'when = "a"\nstatus = 302\n',
            ", line 8: sources.acme.handshake.status: must be a number from 200 to 299",
        ),
        (
            SIGNED + SHAKE + 'when = "a"\nstatus = true\n',
            ", line 8: sources.acme.handshake.status: must be a number from 200 to 299",
        ),
        (
            SIGNED + SHAKE + 'when = "a"\nanswer = "b"\nstatus = 204\n',
            ", line 8: sources.acme.handshake.answer: an answer of status 204 is empty",
        ),
        (
            SIGNED + "[[sources.acme.mapping]]\na = 1\n[[sources.acme.mapping]]\nb = [\n\n nan]\n",
            ", line 11: sources.acme.mapping[1].b[0]: nan is no number here",
        ),
        (
            SIGNED + "[[sources.acme.mapping]]\n[sources.acme.mapping.a]\nb = 2026-11-02\n",
            ", line 8: sources.acme.mapping[0].a.b: times are written as text here: in quotes",
        ),
        (
            HMAC.replace("hmac", "bearer") + 'signature.header = "a:b"\n',
            ", line 4: sources.acme.signature.header: 'a:b' is no header's name",
        ),
        (
            HMAC.replace("hmac", "bearer") + "signature.prefix = 5\n",
            ", line 4: sources.acme.signature.prefix: must be text in printable ASCII",
        ),
        (
            HMAC.replace("hmac", "bearer") + 'signature.part = "v1"\n',
            ", line 4: sources.acme.signature.part: unknown key; known here: header, prefix",
        ),
    ],
)
def test_an_error_in_a_senders_table_names_its_line_and_key(text: str, said: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        read(text)
    assert str(caught.value).startswith(f"sluice.toml{said}")


class Acme(Provider):
    """As an installed package might bring it, with an array of tables of its own."""

    name = "acme"
    secret_hint = "any"
    tables = frozenset({"rules"})

    def for_source(self, configured: Configured) -> Provider:
        for number, rule in enumerate(configured.settings.get("rules", ())):
            if rule.get("object", {}).get("status") != "active":
                raise ConfigurationError(("rules", number, "object", "status"), "is no status")
        return self


def test_an_error_in_an_array_of_tables_names_the_line_of_its_element() -> None:
    rule = '[[sources.a.rules]]\nobject.status = "active"\n'
    text = '[sources.a]\nprovider = "acme"\nsecrets = ["s"]\n' + rule
    known = {"acme": Acme()}
    assert read_declaration((text + rule).encode(), known).sources["a"].settings == {
        "rules": [{"object": {"status": "active"}}] * 2
    }
    for broken, line in [
        (rule.replace("active", "x"), 7),
        ("\n[[sources.a.rules]]\n", 7),
        ("[[sources.a.rules]]\n[sources.a.rules.object]\n\nstatus = 1\n", 9),
    ]:
        with pytest.raises(DeclarationError) as caught:
            read_declaration((text + broken).encode(), known)
        said = f"sluice.toml, line {line}: sources.a.rules[1].object.status: is no status"
        assert str(caught.value) == said


@pytest.mark.parametrize(
    ("provider", "signature", "secret", "said"),
    [
        ("svix", "", "whsec_!", 'is not "whsec_…" or "whpk_…" in base64'),
        ("standard-webhooks", "", "whpk_AAAA", "is no Ed25519 public key: it has not 32 bytes"),
        ("hmac", 'header = "X", secret_encoding = "hex"', "hunter2", "is not in hex"),
        ("hmac", 'header = "X", secret_encoding = "base64"', "hunter2!", "is not in base64"),
        ("basic", "", "hunter2", 'is not "user:password", with neither of them empty'),
        ("basic", "", "user:", 'is not "user:password", with neither of them empty'),
    ],
)
def test_a_secret_that_does_not_fit_its_source_is_named(
    tmp_path: Path, provider: str, signature: str, secret: str, said: str
) -> None:
    """By the source as it is configured: what is a key in one is none in another."""
    table = f"signature = {{ {signature} }}\n" if signature else ""
    text = f'[sources.a]\nprovider = "{provider}"\nsecrets = [\n"env:S"]\n{table}'
    with pytest.raises(DeclarationError) as caught:
        resolve_secrets(read(text), {"S": secret}, tmp_path, providers())
    assert str(caught.value) == f"sluice.toml, line 4: sources.a.secrets[0]: {said}"


ROOT = Path(__file__).parents[2]
SAID_BY = [
    *(
        ROOT / f"shared/providers/sender/{name}.py"
        for name in ("handshakes", "identities", "ingestion", "schemas", "schemes")
    ),
    ROOT / "shared/providers/sender/tables.py",
    *(
        ROOT / f"shared/providers/signing/{name}.py"
        for name in ("macs", "standard_webhooks", "tokens")
    ),
]


def messages(source: str) -> set[str]:
    """What each ConfigurationError says, up to where it depends on what was written."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ConfigurationError":
            said = node.args[1]
            parts = said.values if isinstance(said, ast.JoinedStr) else [said]
            texts = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in parts]
            runs = re.split(r"[\0:,]", "".join(texts))
            found.add(next(run.strip(" '") for run in runs if len(run.strip(" '")) > 3))
    return found


def test_every_message_is_in_the_documents() -> None:
    text = "".join((ROOT / f"docs/{name}.md").read_text() for name in ("configuration", "ingest"))
    said = {one for path in SAID_BY for one in messages(path.read_text())}
    assert len(said) > 20
    assert not {one for one in said if one not in text}
