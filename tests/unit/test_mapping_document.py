"""The examples of docs/mapping.md, as they stand there."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.domain.commands import Ignore
from shared.domain.events import Arrival
from shared.domain.standings import Standing
from shared.providers import providers
from shared.providers.base import Configured, Provider
from workers.declaration.sources import read_source

TEXT = (Path(__file__).parents[2] / "docs/mapping.md").read_text()
BLOCKS = re.findall(
    r"^```(toml|json event|json command)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL
)
HEADERS = (("x-request-id", "r1"), ("webhook-id", "msg_1"))


def examples() -> list[tuple[str, str, str]]:
    """(declaration, event, command), in the order of the document."""
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds == ["toml", "json event", "json command"] * (len(kinds) // 3)
    texts = [text for _, text in BLOCKS]
    return list(zip(texts[::3], texts[1::3], texts[2::3], strict=True))


def sender_of(declaration: str) -> Provider:
    ((name, table),) = tomllib.loads(declaration)["sources"].items()
    source = read_source(table, ("sources", name), providers(), Path())
    return providers()[source.provider].for_source(
        Configured(source.settings, source.livemode, source.tenant)
    )


def commands_of(sender: Provider, body: bytes) -> list[Any]:
    identity = sender.identify(HEADERS, body)
    return list(sender.translate(Arrival(identity, body, HEADERS)))


def has(found: Any, expected: Any) -> bool:
    """Whether all that is expected is there; more may be."""
    if isinstance(expected, dict):
        return all(key in found and has(found[key], one) for key, one in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(has, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize(("declaration", "event", "command"), examples())
def test_an_example_is_true(declaration: str, event: str, command: str) -> None:
    (found,) = commands_of(sender_of(declaration), event.encode())
    told = msgspec.json.decode(msgspec.json.encode(found))
    assert has(told, json.loads(command)), told


def test_there_are_examples_of_each() -> None:
    assert len(examples()) == 3
    assert not has({"a": [1]}, {"a": [2]})
    assert not has({"a": 1}, {"b": 1})


def test_the_example_leaves_out_what_it_says() -> None:
    declaration, event, _ = examples()[0]
    sandboxed = {**json.loads(event), "data": {"sandbox": True}}
    assert commands_of(sender_of(declaration), json.dumps(sandboxed).encode()) == [
        Ignore("not_meant")
    ]


def test_all_standings_are_told() -> None:
    told = TEXT[TEXT.index("A standing is one of") :]
    for standing in Standing:
        assert f"`{standing.value}`" in told
