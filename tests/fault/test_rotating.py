"""A secret is rotated under load: several gateway processes, and senders that change over."""

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.conformance.processes import sluice
from shared.conformance.running import post
from shared.settings import Endpoints
from tests.gateway.conftest import SECRET, event, sign
from tests.gateway.test_process import configured, listening, process

NEW = "whsec_new"
GATEWAYS = 3
OVERLAP_S = 8.0


@dataclass
class Senders:
    """They sign with what they are told to, and keep (secret, when begun, answered, status)."""

    ports: list[int]
    secrets: tuple[str, ...] = (SECRET,)
    answers: list[tuple[str, float, float, str]] = field(default_factory=list)
    is_over: bool = False

    async def send(self, number: int) -> None:
        while not self.is_over:
            for secret in self.secrets:
                body = event(f"evt_{uuid.uuid4()}", f"sub_{number}")
                began = time.monotonic()
                headers = (("stripe-signature", sign(body, secret)),)
                status = await post(self.ports[number % GATEWAYS], "stripe", headers, body)
                self.answers.append((secret, began, time.monotonic(), status))
            await asyncio.sleep(0.01)

    def statuses(self, secret: str, after: float, before: float) -> Counter[str]:
        """Of requests that were wholly within these moments."""
        found = (
            status
            for signed, began, ended, status in self.answers
            if signed == secret and began >= after and ended <= before
        )
        return Counter(found)


@pytest.mark.timeout(180)
async def test_a_rotation_under_load_refuses_nothing_and_ends_everywhere(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    """
    Old, then both, then the new one only. During the overlap no request is refused, by whichever
    gateway; two seconds after it, the old secret opens nothing in any of them.
    """
    await configured(endpoints)
    environ = {
        "SLUICE_HOME": str(tmp_path),
        "SLUICE_DATABASE_URL": endpoints.database["owner"],
        "SLUICE_REDIS_URL": endpoints.redis,
        "SLUICE_SECRET_KEY": endpoints.secret_key,
        "NEW_SECRET": NEW,
    }

    async def said_by(*argv: str) -> dict[str, Any]:
        said = await asyncio.to_thread(sluice, *argv, "--json", **environ)
        assert said.returncode == 0, said.stderr
        return dict(json.loads(said.stdout))

    async with contextlib.AsyncExitStack() as stack:
        ports: list[int] = []
        for _ in range(GATEWAYS):  # one after the other: three imports at once take long
            _, port = await stack.enter_async_context(process(endpoints, tmp_path))
            await listening(port)
            ports.append(port)
        senders = Senders(ports)
        sending = [asyncio.create_task(senders.send(number)) for number in range(2 * GATEWAYS)]
        begun = time.monotonic()
        await asyncio.sleep(1.0)

        rotated = await said_by(
            "sources", "rotate-secret", "stripe", "--secret", "env:NEW_SECRET",
            "--overlap", f"{OVERLAP_S:.0f}s", "--reason", "test",
        )  # fmt: skip
        async with db.connect(endpoints.database["owner"], "owner") as owner:
            left_s = await owner.fetchval(
                "SELECT extract(epoch FROM retires_at - now())::float8 FROM source_secrets"
                " WHERE slot = 0"
            )
        ends = time.monotonic() + left_s
        await asyncio.sleep(2.0)  # as operators are told to wait
        both = time.monotonic()
        senders.secrets = (SECRET, NEW)
        # Some go on with the old one all the way, and beyond.
        await asyncio.sleep(ends - time.monotonic() + 4.0)
        new_only = time.monotonic()
        senders.secrets = (NEW,)
        await asyncio.sleep(1.0)
        senders.is_over = True
        await asyncio.gather(*sending)
        over = time.monotonic()

    assert set(senders.statuses(SECRET, begun, ends)) == {"200"}
    assert set(senders.statuses(NEW, both, over)) == {"200"}
    assert senders.statuses(SECRET, both, ends)["200"] > 10, "they never worked together"
    after = senders.statuses(SECRET, ends + 2.0, new_only)
    assert set(after) == {"401"}
    assert after["401"] > 10
    # Which one matched is known of every event.
    labels = {"0.1": SECRET, rotated["label"]: NEW}
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        rows = await owner.fetch("SELECT secret, count(*) FROM inbox GROUP BY secret")
    stored = {labels[row["secret"]]: row["count"] for row in rows}
    accepted = Counter(signed for signed, *_, status in senders.answers if status == "200")
    assert stored == accepted
    # And of those that came too late it is said that they were signed with what had ended.
    shown = (await said_by("requests", "list"))["items"]
    assert {one["cause"] for one in shown} == {"wrong_secret"}
    assert all("0.1" in one["hint"] for one in shown)
