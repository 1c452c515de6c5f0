"""Mappings as `sluice apply` reads them: applied, or refused with their line and key path."""

from pathlib import Path

import pytest

from tests.cli.conftest import Sluice
from tests.support.stack import Stack

SOURCE = """\
[sources.acme]
provider  = "hmac"
secrets   = ["a secret of acme"]
signature = { header = "X-Acme-Signature" }
event     = { occurred_at = "at" }

[[sources.acme.mapping]]
types = ["licence.*"]
[sources.acme.mapping.object]
kind     = "subscription"
id       = "data.id"
status   = "data.state"
statuses = { live = "active" }
products = "data.sku"
"""


async def test_a_mapping_is_applied_and_changed(
    sluice: Sluice, stack: Stack, tmp_path: Path
) -> None:
    file = tmp_path / "sluice.toml"
    file.write_text(SOURCE)
    assert (await sluice("apply", file, "--yes")).code == 0
    stored = await stack.value("SELECT settings FROM sources WHERE name = 'acme'")
    assert stored["mapping"][0]["object"]["statuses"] == {"live": "active"}
    file.write_text(SOURCE.replace('"data.sku"', '"data.skus"'))
    changed = await sluice("apply", file, "--yes")
    assert "data.skus" in changed.out + changed.err


@pytest.mark.parametrize(
    ("was", "is_now", "line", "path"),
    [
        ('"data.id"', '"data.["', 11, "sources.acme.mapping[0].object.id"),
        ('"active"', '"live"', 13, "sources.acme.mapping[0].object.statuses"),
        ('status   = "data.state"', "", 9, "sources.acme.mapping[0].object.status: is missing"),
        ('"licence.*"', '""', 8, "sources.acme.mapping[0].types[0]"),
        ('{ occurred_at = "at" }', "{}", 9, "sources.acme.mapping[0].object.version: is missing"),
        ("products", "product", 14, "sources.acme.mapping[0].object.product: unknown key"),
    ],
)
async def test_what_is_wrong_has_its_line(
    sluice: Sluice, stack: Stack, tmp_path: Path, was: str, is_now: str, line: int, path: str
) -> None:
    file = tmp_path / "sluice.toml"
    file.write_text(SOURCE.replace(was, is_now))
    refused = await sluice("apply", file, "--yes")
    assert refused.code == 2
    assert f"sluice.toml, line {line}: {path}" in refused.err
    assert await stack.value("SELECT count(*) FROM sources WHERE name = 'acme'") == 0
