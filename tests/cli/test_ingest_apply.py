"""`[sources.NAME.ingest]`: the schema of a file is applied, and every error names its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.providers import providers
from tests.cli.conftest import Sluice
from workers.declaration import DeclarationError, read_declaration

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "string", "pattern": "^[^\\u0000]+$"}},
}
TEXT = """[sources.acme]
provider = "standard-webhooks"
secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]

[sources.acme.ingest]
formats = ["json", "csv"]
schema = "schemas/results.json"
record = { id = "id", version = "at" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Its schema lies beside it, wherever the command is called."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/results.json").write_text(json.dumps(SCHEMA))
    path = tmp_path / "sluice.toml"
    path.write_text(TEXT)
    return path


def changes(said: Any) -> list[str]:
    assert said.code == 0, said.err
    return [detail for change in said.json["changes"] for detail in change["details"]]


async def test_what_is_in_the_file_is_stored_and_compared(sluice: Sluice, file: Path) -> None:
    said = await sluice("apply", file, "--json")
    assert changes(said) == [
        "provider standard-webhooks",
        "secrets: 1",
        'ingest.formats[0]: "json"',
        'ingest.formats[1]: "csv"',
        'ingest.record.id: "id"',
        'ingest.record.version: "at"',
        "ingest.schema: 4 keys",
    ]
    assert "acme: documents are pushed to http://" in said.err
    assert "/api/v1/ingest/acme" in said.err
    assert "nothing changes" in (await sluice("apply", file)).err
    [source] = (await sluice("sources", "list", "--json")).json["items"]
    assert source["settings"]["ingest"]["schema"] == SCHEMA
    assert source["ingestUrl"].endswith("/api/v1/ingest/acme")
    assert "/api/v1/ingest/acme" in (await sluice("sources", "list")).err

    schema = file.parent / "schemas/results.json"
    schema.write_text(json.dumps({**SCHEMA, "required": ["id", "at"]}))
    assert changes(await sluice("apply", file, "--json")) == [
        'ingest.schema.required[1]: none → "at"'
    ]
    many = {f"field{number}": {"type": "string"} for number in range(50)}
    schema.write_text(json.dumps({**SCHEMA, "required": ["id", "at"], "properties": many}))
    assert changes(await sluice("apply", file, "--json")) == ["ingest.schema: 52 keys changed"]
    file.write_text(TEXT.replace('schema = "schemas/results.json"\n', ""))
    assert changes(await sluice("apply", file, "--json")) == ["ingest.schema: 53 keys changed"]


async def test_a_source_without_pushes_has_no_such_url(sluice: Sluice, file: Path) -> None:
    file.write_text(TEXT[: TEXT.index("[sources.acme.ingest]")])
    said = await sluice("apply", file)
    assert "pushed" not in said.err
    [source] = (await sluice("sources", "list", "--json")).json["items"]
    assert source["ingestUrl"] is None


def test_a_schema_may_stand_in_the_file_itself(tmp_path: Path) -> None:
    inline = 'schema = { type = "object", required = ["id"] }'
    text = TEXT.replace('schema = "schemas/results.json"', inline)
    found = read_declaration(text.encode(), providers(), beside=tmp_path).sources["acme"]
    assert found.settings["ingest"]["schema"] == {"type": "object", "required": ["id"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read schemas/results.json: No such file or directory"),
        (b"", "schemas/results.json is not JSON: "),
        (b"{]", "schemas/results.json is not JSON: object keys must be strings (byte 1)"),
        (b"\xff", "schemas/results.json is not JSON: "),
        (b"[" * 100_000, "schemas/results.json is not JSON: "),
        (b'{"pattern": "\\u0000"}', "schemas/results.json holds a NUL, which cannot be stored"),
        (b'{"\\u0000": 1}', "schemas/results.json holds a NUL, which cannot be stored"),
        (b'"' + b" " * (1 << 20) + b'"', "schemas/results.json is larger than 1 MiB"),
        (b'"text"', "is no JSON Schema: an object, true or false"),
        (b'{"type": 7}', "is no JSON Schema that can be used: "),
        (b'{"$ref": "https://example.com/other.json"}', "is no JSON Schema that can be used: "),
    ],
)
def test_what_is_wrong_with_a_schema(file: Path, content: bytes | None, said: str) -> None:
    schema = file.parent / "schemas/results.json"
    schema.unlink() if content is None else schema.write_bytes(content)
    with pytest.raises(DeclarationError) as caught:
        read_declaration(file.read_bytes(), providers(), "sluice.toml", file.parent)
    assert str(caught.value).startswith(f"sluice.toml, line 7: sources.acme.ingest.schema: {said}")


def test_a_name_that_no_file_has(file: Path) -> None:
    text = TEXT.replace("schemas/results.json", "a\\u0000b")
    with pytest.raises(DeclarationError, match=r"line 7: .*no file has such a name"):
        read_declaration(text.encode(), providers(), beside=file.parent)


def test_an_ingest_that_is_no_table_is_its_providers_to_refuse(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index("[sources.acme.ingest]")] + "ingest = 1\n"
    with pytest.raises(DeclarationError, match=r"line 5: sources\.acme\.ingest: must be a table"):
        read_declaration(text.encode(), providers(), beside=tmp_path)
