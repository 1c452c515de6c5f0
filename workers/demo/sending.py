"""Over real HTTP, as the provider does it: signed, one request for every delivery."""

import asyncio
import http.client
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID

from shared.providers import providers
from workers.demo.bodies import Event

_TIMEOUT_S = 5.0
AGAIN_AFTER_S = 0.1
#: Running processes pick up a new configuration within two seconds; a loaded machine may take more.
PATIENCE_S = 10.0
NOT_YET = frozenset({401, 404, 503})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a delivery was told. `word` is "new", "duplicate", or the error's code."""

    status: int  # 0: no answer at all
    word: str
    tracking_id: UUID | None
    took_s: float


class Sender:
    """Delivers events to one source. Keeps every answer, in the order in which they came."""

    def __init__(self, url: str, source: str, secret: str) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._path = f"/api/v1/webhooks/{quote(source)}"
        self._secret = secret
        self._patient_until = time.monotonic() + PATIENCE_S

    async def deliver(self, event: Event, *, pending_webhooks: int = 1) -> Answer:
        """
        Deliver an event, and again while the source's new secret may not be known yet, as a
        provider would.
        """
        body = event.body(pending_webhooks=pending_webhooks)
        while True:
            answer = await self._post(body, self._secret)
            if answer.status not in NOT_YET or time.monotonic() > self._patient_until:
                self.answers.append(answer)
                return answer
            await asyncio.sleep(AGAIN_AFTER_S)

    async def forge(self, event: Event, secret: str) -> Answer:
        """Deliver it once, signed with a secret that is not the source's."""
        answer = await self._post(event.body(), secret)
        self.answers.append(answer)
        return answer

    async def _post(self, body: bytes, secret: str) -> Answer:
        signed = dict(providers()["stripe"].sign(body, secret, datetime.now(UTC)))
        headers = {**signed, "content-type": "application/json", "user-agent": "sluice-demo"}
        started_s = time.perf_counter()
        try:
            status, text = await asyncio.to_thread(
                request, self._url, "POST", self._path, body, headers
            )
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, type(error).__name__, None, time.perf_counter() - started_s)
        return _read(status, text, time.perf_counter() - started_s)


async def readiness(url: str) -> int:
    """
    What the gateway answers to GET /readyz.

    Raises:
        OSError: nobody answers there.
    """
    try:
        status, _ = await asyncio.to_thread(request, url, "GET", "/readyz", None, {})
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer: {error!r}") from None
    return status


def request(
    url: str, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    """
    One request: the status and the body of its answer. Blocks.

    Raises:
        OSError, http.client.HTTPException: there is no answer.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _read(status: int, text: bytes, took_s: float) -> Answer:
    try:
        envelope: dict[str, Any] = json.loads(text)
        if envelope["error"] is not None:
            return Answer(status, str(envelope["error"]["code"]), None, took_s)
        data = envelope["data"]
        return Answer(status, str(data["status"]), UUID(data["trackingId"]), took_s)
    except (ValueError, KeyError, TypeError):
        return Answer(status, "no envelope", None, took_s)
