"""The follower of docs/feed.md is what it is said to be, and its commands are answered."""

import asyncio
import json
import os
import random
import re
import shlex
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.settings import Endpoints
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.test_api import add_token
from tests.gateway.test_feed import told, write

GUIDE = (Path(__file__).parents[2] / "docs" / "feed.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert found
    return found


def kept(path: Path) -> dict[tuple[str, str], Any]:
    """What the follower has come to."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT tenant, feature, value FROM access").fetchall()
    return {(tenant, feature): value and json.loads(value) for tenant, feature, value in rows}


async def test_the_follower_comes_to_what_is_so_however_often_it_is_killed(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    (program,) = blocks("python")
    script = tmp_path / "follow.py"
    script.write_text(program)
    dice = random.Random(7)
    values: dict[tuple[str, str], int | None] = {}
    async with running_gateway(endpoints, tmp_path) as gateway:
        environment = os.environ | {
            "SLUICE": f"http://127.0.0.1:{gateway.port}",
            "TOKEN": await add_token(gateway, "service"),
        }
        for _ in range(6):
            running = await asyncio.create_subprocess_exec(
                sys.executable, str(script), cwd=tmp_path, env=environment
            )
            for _ in range(20):
                await change(gateway, dice, values)
                await asyncio.sleep(dice.uniform(0, 0.03))
            # Anywhere: at its start, in an answer, in its transaction.
            await asyncio.sleep(dice.uniform(0, 0.5))
            assert running.returncode is None
            running.send_signal(signal.SIGKILL)
            await running.wait()
        running = await asyncio.create_subprocess_exec(
            sys.executable, str(script), cwd=tmp_path, env=environment
        )
        async with asyncio.timeout(10):
            while not (tmp_path / "access.db").exists() or kept(tmp_path / "access.db") != values:
                await asyncio.sleep(0.1)
        # What cannot become better is said, and ends it.
        await gateway.owner.execute("UPDATE tokens SET revoked_at = now()")
        assert await asyncio.wait_for(running.wait(), 10) == 1


async def change(
    gateway: Gateway, dice: random.Random, values: dict[tuple[str, str], int | None]
) -> None:
    tenant, feature = dice.choice(["acme", "other", "third"]), dice.choice(["seats", "calls"])
    value = dice.choice([None, dice.randint(1, 9)])
    values[tenant, feature] = value
    after = None if value is None else json.dumps({"value": value, "validUntil": None}).encode()
    action = "entitlement.revoked" if value is None else "entitlement.changed"
    await write(gateway, told(action, tenant, feature=feature, after=after))


async def test_the_commands_are_answered(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [
        shlex.split(command)
        for block in blocks("sh")
        for command in re.split(r"\n(?=curl)", block.replace("\\\n", ""))
    ]
    assert len(commands) == 3
    async with running_gateway(endpoints, tmp_path) as gateway:
        token = await add_token(gateway, "service")
        for curl, *words in commands:
            assert curl == "curl"
            headers = dict(
                word.replace("$TOKEN", token).split(": ") for word in words if ": " in word
            )
            (url,) = [word for word in words if word.startswith("$SLUICE")]
            path = url.removeprefix("$SLUICE").replace("wait=30s", "wait=1s")
            async with gateway.client.stream("GET", path, headers=headers) as answer:
                assert answer.status_code == 200
                if "-N" in words:
                    assert (await anext(answer.aiter_lines())) == "retry: 2000"
                else:
                    assert json.loads(await answer.aread())["meta"]["next"]


async def test_an_item_has_what_the_guide_shows(endpoints: Endpoints, tmp_path: Path) -> None:
    (example,) = blocks("json")
    async with running_gateway(endpoints, tmp_path) as gateway:
        await write(gateway, told())
        headers = {"authorization": f"Bearer {await add_token(gateway, 'service')}"}
        answer = await gateway.client.get("/api/v1/events", headers=headers)
    assert shape(answer.json()) == shape(json.loads(example))


def shape(value: Any) -> Any:
    """The keys, in their order."""
    if isinstance(value, dict):
        return {
            key: None if key in {"before", "after"} else shape(one) for key, one in value.items()
        }
    return [shape(one) for one in value] if isinstance(value, list) else None


async def test_the_index_may_be_there_before_its_migration(endpoints: Endpoints) -> None:
    """By the statement of the guide, it is the migration's own."""
    (statement,) = blocks("sql")
    name = "audit_of_tenant_in_commit_order"
    definition = "SELECT pg_get_indexdef(to_regclass($1))"
    migration = Path(__file__).parents[2] / "shared/migrations/0018_index_feed.sql"
    create = next(
        line for line in migration.read_text().splitlines() if line.startswith("CREATE INDEX")
    )
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        made = await owner.fetchval(definition, name)
        await owner.execute(f"DROP INDEX {name}")
        await owner.execute(statement)
        assert await owner.fetchval(definition, name) == made
        await owner.execute(create)
        assert await owner.fetchval(definition, name) == made
