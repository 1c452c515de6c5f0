"""Every sender of docs/senders.md, applied to a database and read back from it."""

import re
from pathlib import Path

import pytest

from gateway.sources import Sources
from shared.sealing import KeyRing
from shared.settings import Endpoints
from tests.cli.conftest import Sluice

DOCUMENT = (Path(__file__).parents[2] / "docs/senders.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file of all of them; each secret is one for every scheme."""
    text = "\n".join(BLOCKS)
    for name in re.findall(r"env:(\w+)", text):
        monkeypatch.setenv(name, "user:key" if "PASSWORD" in name else "abcd")
    path = tmp_path / "sluice.toml"
    path.write_text(text)
    return path


async def test_the_same_again_changes_nothing(
    sluice: Sluice, endpoints: Endpoints, file: Path
) -> None:
    said = await sluice("apply", file, "--json")
    assert said.code == 0, said.err
    assert {change["action"] for change in said.json["changes"]} == {"added"}
    assert len(said.json["changes"]) == len(
        re.findall(r"^\[sources\.[a-z-]+\]", file.read_text(), re.MULTILINE)
    )
    again = await sluice("apply", file)
    assert again.code == 0
    assert "nothing changes: version 1 holds" in again.err

    sources = Sources(
        endpoints.database["gateway"], KeyRing.parse(endpoints.secret_key), timeout_s=5
    )
    await sources.start()
    try:
        for change in said.json["changes"]:
            entrance = await sources.find(change["name"])
            assert entrance.provider is not None
            assert entrance.provider.name == entrance.source.provider
    finally:
        await sources.close()


async def test_a_change_is_told_by_key_path_and_derives_nothing(sluice: Sluice, file: Path) -> None:
    await sluice("apply", file)
    file.write_text(file.read_text().replace('prefix = "v0="', 'prefix = "v1="'))
    said = await sluice("apply", file, "--json")
    assert said.code == 0, said.err
    [change] = [one for one in said.json["changes"] if one["action"] != "unchanged"]
    assert change["name"] == "slack"
    assert change["details"] == ['signature.prefix: "v0=" → "v1="']
    versions = (await sluice("catalog", "list", "--json")).json["items"]
    assert [one["version"] for one in versions] == [0]


async def test_what_is_wrong_is_one_line_and_writes_nothing(sluice: Sluice, file: Path) -> None:
    text = file.read_text().replace('part = "h1"', 'part = "ts"')
    file.write_text(text)
    line = text[: text.index('timestamp = "part:ts"')].count("\n") + 1
    said = await sluice("apply", file)
    assert said.code == 2
    assert said.err.splitlines()[0].startswith(
        f"sluice: {file}, line {line}: sources.paddle.signature.timestamp: is a part of its own"
    )
    assert (await sluice("sources", "list", "--json")).json["items"] == []
