"""
Tells a CRM when a tenant gains or loses an entitlement, whichever provider it is from.

Writing to somebody else is the one thing that no transaction takes back. So `handle` only puts a
message into the outbox, in the event's transaction, and `send` brings it out once that has
committed: a message that nobody meant is never sent, and one that was meant is never lost.
"""

import os
from typing import Any

import httpx
import msgspec
from shared.plugin import Event, Extension, Handler, Outgoing, Permanent, Result, Transaction

#: Where notes are posted to, like https://crm.example/api/notes.
URL = "BEACON_CRM_URL"

_WORDS = {
    "entitlement.granted": "gained",
    "entitlement.changed": "changed",
    "entitlement.revoked": "lost",
}
#: Answers that no later attempt will change. 429 and 5xx are none of them.
_FINAL = {400, 401, 403, 404, 410, 422}


class _Held(msgspec.Struct):
    value: Any


class _Change(msgspec.Struct):
    """What an event of Sluice's own says: see `shared.plugin.Event`."""

    tenant: str
    feature: str
    after: _Held | None


class Note(Extension, frozen=True):
    """What a tenant gained, lost, or has now in another amount."""

    tenant: str
    feature: str
    what: str
    now: Any


_decode = msgspec.json.Decoder(_Change).decode


class Crm(Handler[Note]):
    """
    See `shared.plugin.Handler`.

    Where nobody says where the CRM is, it listens to nothing: installing a package must not change
    what a deployment does.
    """

    name = "beacon-crm"
    command = Note

    def __init__(self, url: str | None = None) -> None:
        self._url = os.environ.get(URL, "") if url is None else url
        self.listens_to = ("sluice:entitlement.*",) if self._url else ()

    def read(self, event: Event) -> Note | None:
        """Pure: a replay asks again, and must be told the same."""
        change = _decode(event.body)
        now = None if change.after is None else change.after.value
        return Note(change.tenant, change.feature, _WORDS[event.event_type], now)

    async def handle(self, event: Event, command: Note, transaction: Transaction) -> Result:
        """Nothing but the message: no key is given, so it is sent once for each event."""
        transaction.send(msgspec.to_builtins(command))
        return Result(tenant=command.tenant)

    async def send(self, message: Outgoing) -> None:
        """
        At least once: a process may die after the CRM has the note and before that is written
        down. The key is the same then, and the CRM makes one note of both.
        """
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.post(
                self._url, json=message.payload, headers={"Idempotency-Key": message.key}
            )
        if answer.status_code in _FINAL:
            raise Permanent("refused", f"{answer.status_code}: {answer.text[:200]}")
        answer.raise_for_status()
