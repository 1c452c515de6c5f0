"""As a partner pushes results, and as an application reads what came of them: over HTTP alone."""

import asyncio
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from shared.providers.signing import standard_webhooks
from workers.demo.sending import AGAIN_AFTER_S, NOT_YET, PATIENCE_S, request

NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered. `code` is the error's; `status` 0 is no answer at all."""

    status: int
    data: Any
    meta: Mapping[str, Any]
    code: str | None


class Partner:
    """Pushes to one source, signed by Standard Webhooks, and asks what became of it."""

    def __init__(self, url: str, source: str, secret: str) -> None:
        self._url = url
        self._path = f"/api/v1/ingest/{quote(source)}"
        self._key = standard_webhooks.key_of(secret).key
        self._patient_until = time.monotonic() + PATIENCE_S

    async def push(self, name: str, body: bytes) -> Reply:
        """Push rows of NDJSON, and again while the source may not be known yet."""
        while True:
            reply = await self._signed("POST", self._path, name, body)
            if reply.status not in NOT_YET or time.monotonic() > self._patient_until:
                return reply
            await asyncio.sleep(AGAIN_AFTER_S)

    async def ask(self, path: str) -> Reply:
        """Ask for the status of a push: signed over an empty body."""
        return await self._signed("GET", path, "status", b"")

    async def _signed(self, method: str, path: str, name: str, body: bytes) -> Reply:
        headers = dict(standard_webhooks.sign(body, self._key, name, datetime.now(UTC)))
        if method == "POST":
            headers["content-type"] = NDJSON
        return await _ask(self._url, method, path, body or None, headers)


class Application:
    """Reads the API with a tenant's own token."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"}

    async def get(self, path: str, **query: str | int) -> Reply:
        """Of this path below `/api/v1`."""
        asked = f"/api/v1/{path}?{urlencode(query)}" if query else f"/api/v1/{path}"
        return await _ask(self._url, "GET", asked, None, self._headers)

    async def list_all(self, path: str, **query: str | int) -> list[Any]:
        """All that a list has now, page by page; nothing where one of them is not answered."""
        found: list[Any] = []
        cursor: dict[str, str | int] = {}
        while True:
            reply = await self.get(path, **query, **cursor)
            if reply.status != 200:
                return []
            found += reply.data
            if not reply.meta["hasMore"]:
                return found
            cursor = {"cursor": reply.meta["next"]}


async def _ask(
    url: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> Reply:
    sent = {**headers, "user-agent": "sluice-demo"}
    try:
        status, text = await asyncio.to_thread(request, url, method, path, body, sent)
        envelope = json.loads(text)
        error = envelope["error"] or {}
        return Reply(status, envelope["data"], envelope["meta"], error.get("code"))
    except (OSError, http.client.HTTPException) as failure:
        return Reply(0, None, {}, type(failure).__name__)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Reply(status, None, {}, "no envelope")
