"""What names nothing ends with 3, and says which command lists what there is."""

from typing import Any
from uuid import UUID

import typer.main

from tests.cli.conftest import Sluice
from tests.support.stack import Stack
from workers.cli import build

#: Ids that are well made, and of nothing; the first that a command takes is used.
WORDS = (str(UUID(int=7 << 80)), "4711", "nothing-of-that-name")

WRITES: tuple[tuple[str, ...], ...] = (
    ("events", "note", WORDS[0], "x"),
    ("events", "retry", WORDS[0], "--reason", "x"),
    ("events", "raw", WORDS[0]),
    ("jobs", "cancel", WORDS[0], "--reason", "x"),
    ("jobs", "assets", WORDS[0]),
    ("outbox", "drop", "4711", "--reason", "x"),
    ("replay", WORDS[0], "--reason", "x"),
    ("replay", "plan", "--issue", "x"),
    ("replay", "plan", "--source", "x"),
    ("replay", "run", WORDS[0], "--reason", "x"),
    ("replay", "pause", WORDS[0], "--reason", "x"),
    ("requests", "raw", WORDS[0]),
    ("sources", "pause", "x", "--reason", "x"),
    ("tenants", "erase", "x", "--reason", "x"),
    ("tenants", "merge", "x", "y", "--reason", "x"),
    ("tokens", "revoke", "x"),
)


def showing() -> list[str]:
    """The groups that show one thing by its id."""
    found = []
    for name, group in getattr(typer.main.get_command(build()), "commands", {}).items():
        one: Any = getattr(group, "commands", {}).get("show")
        if one is not None and any(each.param_type_name == "argument" for each in one.params):
            found.append(name)
    return found


async def test_what_is_unknown_says_where_to_find_what_is_known(
    stack: Stack, sluice: Sluice
) -> None:
    groups = showing()
    assert {"audit", "events", "issues", "jobs", "replay", "requests", "tokens"} <= set(groups)
    wrong = {}
    for group in groups:
        for word in WORDS:
            said = await sluice(group, "show", word)
            if said.code != 2:  # it could have been an id of that kind
                break
        if said.code != 3 or " list" not in said.err or said.out:
            wrong[group] = said
    for words in WRITES:
        said = await sluice(*words)
        if said.code != 3 or " list" not in said.err or said.out:
            wrong[" ".join(words)] = said
    assert not wrong
