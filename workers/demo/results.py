"""
The scene of a partner and an application: rows are pushed, and what came of them is read.

What the partner and the application see is compared with what was sent; the import itself is looked
up in the database, as in all scenes.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from shared.store import demo
from shared.store.demo import Import
from workers.demo.play import Play, StoryEnded
from workers.demo.pushing import Application, Partner, Reply
from workers.demo.setting import RESULTS
from workers.demo.stage import Scene
from workers.demo.watching import LOOK_EVERY_S

_IMPORTED_WITHIN_S = 20.0
#: What is told of an event comes to the feed when no older transaction is open any more.
_TOLD_WITHIN_S = 10.0


async def push_results(play: Play, scene: Scene) -> None:
    """Rows of which one is wrong and one is old, pushed twice; then read by their tenant."""
    tenant, run = play.tenants[0], play.script.run
    ids = [f"score-{run}-{number}" for number in (1, 2, 3)]
    body = _rows(tenant, ids, play.script.now_s)
    pushed = await _push(play.partner, scene, f"demo-{run}", body, "4 rows")
    again = await _push(play.partner, scene, f"demo-{run}", body, "the same again")
    scene.expect(
        "both are answered 202, with one tracking id",
        (pushed.status, again.status, again.data == pushed.data),
        (202, 202, True),
    )
    if pushed.status != 202:
        raise StoryEnded
    tracking_id = UUID(pushed.data["trackingId"])
    imported = await _imported(play, tracking_id)
    scene.rows[0].outcome = imported.state if imported is not None else None
    scene.expect(
        "imported once: three rows are good, and line 3 is refused",
        imported,
        Import("done", rows=4, failed=1, failed_lines=[3]),
        "line 3",
    )
    status = await play.partner.ask(pushed.data["statusUrl"])
    scene.expect(
        "the partner is told the same, asking with the same secret",
        (status.status, status.data and [one["line"] for one in status.data["failures"]]),
        (200, [3]),
        "line 3",
    )
    await _read(play.application, scene, tracking_id, ids)


def _rows(tenant: str, ids: Sequence[str], now_s: int) -> bytes:
    """The first one's newer version comes first; the second one's score is no number."""
    first, second, third = ids
    rows = [
        {"id": first, "tenant": tenant, "updated_at": now_s + 1, "score": 9},
        {"id": first, "tenant": tenant, "updated_at": now_s, "score": 1},
        {"id": second, "tenant": tenant, "updated_at": now_s, "score": "high"},
        {"id": third, "tenant": tenant, "updated_at": now_s, "score": 4},
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def _push(partner: Partner, scene: Scene, name: str, body: bytes, note: str) -> Reply:
    row = scene.send(f"push to {RESULTS}", note)
    row.awaits_outcome = False
    reply = await partner.push(name, body)
    row.answered(reply.status, reply.code or "stored", ok=reply.status == 202)
    return reply


async def _imported(play: Play, tracking_id: UUID) -> Import | None:
    """The import once it is over; what there is of it after 20 s."""
    deadline_s = time.monotonic() + _IMPORTED_WITHIN_S
    while True:
        found = await demo.read_import(play.conn, tracking_id)
        is_over = found is not None and found.state in ("done", "failed")
        if is_over or time.monotonic() > deadline_s:
            return found
        await asyncio.sleep(LOOK_EVERY_S)


async def _read(
    application: Application, scene: Scene, tracking_id: UUID, ids: Sequence[str]
) -> None:
    listed = await application.list_all("records", source=RESULTS, limit=1)
    scene.expect(
        "the tenant's own token lists its two records",
        [one["record"] for one in listed],
        [ids[0], ids[2]],
        "2 records",
    )
    if listed:
        record = await application.get(f"records/{listed[0]['id']}")
        scene.expect(
            "of a record the newest version counts, though the older one came later",
            (record.status, record.data and record.data["normalised"]),
            (200, {"score": 9}),
            "score 9",
        )
    told = await _told(application, tracking_id)
    scene.expect("the feed tells of the import, once", len(told), 1)


async def _told(application: Application, tracking_id: UUID) -> list[Any]:
    """What the tenant's feed has of the import, read page by page from its beginning."""
    deadline_s = time.monotonic() + _TOLD_WITHIN_S
    while True:
        items = await application.list_all("events", type="records.*", limit=2)
        told = [one for one in items if one["cause"]["id"] == str(tracking_id)]
        if told or time.monotonic() > deadline_s:
            return told
        await asyncio.sleep(LOOK_EVERY_S)
