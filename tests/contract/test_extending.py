"""What docs/extending.md quotes is in the example, and what it declares can be declared."""

import json
import re
from pathlib import Path

import pytest

from shared.conformance.fixtures import read_fixture
from shared.providers import providers
from workers.declaration import read_declaration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sluice-beacon"
GUIDE = (ROOT / "docs" / "extending.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("block", blocks("python"))
def test_code_is_quoted(block: str) -> None:
    sources = [path.read_text() for path in EXAMPLE.rglob("*.py")]
    assert any(block in source for source in sources), block


def test_declarations_are_the_examples_and_hold() -> None:
    declared = 0
    for block in blocks("toml"):
        everywhere = (EXAMPLE / "README.md").read_text() + (EXAMPLE / "pyproject.toml").read_text()
        assert block in everywhere, block
        if "[sources" in block:
            found = read_declaration(block.encode(), providers())
            assert found.sources["beacon"].provider == "beacon"
            declared += 1
    assert declared == 1


def test_the_form_of_a_fixture_is_one(tmp_path: Path) -> None:
    (block,) = blocks("json")
    path = tmp_path / "one.json"
    path.write_text(block)
    fixture = read_fixture(path)
    kept = json.loads((EXAMPLE / "tests/fixtures/usage-reported.json").read_text())
    assert fixture.commands[0].keys() == kept["commands"][0].keys()
    assert fixture.identity.keys() == kept["identity"].keys()


def test_every_file_that_is_named_is_there() -> None:
    for name in re.findall(r"src/sluice_beacon/[\w.]+", GUIDE):
        assert (EXAMPLE / name).exists(), name
    table = (EXAMPLE / "README.md").read_text()
    for name in re.findall(r"`((?:src|tests)/[\w./]+)`", table):
        assert (EXAMPLE / name).exists(), name
