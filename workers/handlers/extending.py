"""`Extension` and `Bring`: what is given to handlers of installed packages, and what they send."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from shared.db import Conn
from shared.domain.commands import Bring, Extension
from shared.domain.events import OWN_PROVIDER, Headers, StoredEvent
from shared.domain.outcomes import BODY_GONE, NOT_FOR_HANDLER
from shared.plugin import Event, Handler
from shared.store import handlers as store
from shared.store import outbox
from shared.store.outbox import NewMessage
from workers.entries import Answer
from workers.extensions import command_name, handler_of, handlers, running
from workers.extensions.running import HandlerFailed, NoHandler
from workers.handlers.scope import Asked, Scope

_decode_headers = msgspec.json.Decoder(Headers).decode


async def extend(conn: Conn, scope: Scope, asked: Sequence[Asked[Extension]]) -> list[Answer]:
    """
    Apply the commands of installed packages, each by its handler.

    Raises:
        NoHandler: one of them is not installed here.
        HandlerFailed: one of them failed.
    """
    answers = []
    sent: dict[tuple[UUID, str], int] = {}
    for one in asked:
        handler = handler_of(type(one.command))
        if handler is None:
            raise NoHandler("", command_name(type(one.command)))
        event = await _event_of(conn, one.event.tracking_id, one.event.run)
        first = sent.get((one.event.tracking_id, handler.name), 0)
        answer, count = await _handle(conn, scope, handler, one.event, event, one.command, first)
        sent[one.event.tracking_id, handler.name] = first + count
        answers.append(answer)
    return answers


async def bring(conn: Conn, scope: Scope, asked: Sequence[Asked[Bring]]) -> list[Answer]:
    """
    Bring handlers what they listen to.

    Raises:
        NoHandler: one of them is not installed here.
        HandlerFailed: one of them failed, or what was to be brought is not kept any more.
    """
    answers = []
    for one in asked:
        handler = handlers().get(one.command.handler)
        if handler is None:
            raise NoHandler(one.command.handler, "")
        event = await _brought(conn, one)
        command = running.read(handler, event)
        if command is None:
            answers.append(Answer("ignored", None, "", NOT_FOR_HANDLER, [], 0))
        else:
            answer, _ = await _handle(conn, scope, handler, one.event, event, command, 0)
            answers.append(answer)
    return answers


async def _handle(
    conn: Conn,
    scope: Scope,
    handler: Handler[Any],
    stored: StoredEvent,
    event: Event,
    command: Extension,
    already_sent: int,
) -> tuple[Answer, int]:
    """Run the handler and keep its messages; what it did, and how many they are."""
    result, messages = await running.run(conn, handler, event, command, scope.now)
    kept = [
        # By the handled event's own id, so that a replay sends nothing again.
        NewMessage(key or f"{stored.tracking_id}/{number}", handler.name, stored.tracking_id, text)
        for number, (key, text) in enumerate(messages, start=already_sent + 1)
    ]
    try:
        await outbox.add_messages(conn, kept)
    except ValueError as error:
        raise HandlerFailed("bad_message", str(error)) from error
    answer = Answer(result.outcome, None, "", result.code, [], 0, concerns=result.tenant)
    return answer, len(messages)


async def _brought(conn: Conn, one: Asked[Bring]) -> Event:
    command = one.command
    if command.tracking_id is not None:
        return await _event_of(conn, command.tracking_id, one.event.run)
    if command.record is not None:
        return await _change_of(conn, command.record, one.event)
    raise HandlerFailed("unreadable", "it names neither event nor record", is_permanent=True)


async def _event_of(conn: Conn, tracking_id: UUID, run: int) -> Event:
    row = await store.read_event(conn, tracking_id)
    if row is None:
        text = f"the body of event {tracking_id} is not kept any more"
        raise HandlerFailed(BODY_GONE, text, is_permanent=True)
    return Event(**{**row, "headers": _decode_headers(row["headers"])}, run=run)


async def _change_of(conn: Conn, record: int, stored: StoredEvent) -> Event:
    change = await store.read_change(conn, record)
    if change is None or change.erased:
        text = f"the contents of audit record {record} are not kept any more"
        raise HandlerFailed(BODY_GONE, text, is_permanent=True)
    body = {
        "tenant": change.tenant,
        "feature": change.feature,
        "before": msgspec.Raw(change.before or b"null"),
        "after": msgspec.Raw(change.after or b"null"),
    }
    return Event(
        tracking_id=stored.tracking_id,
        source=change.source,
        provider=OWN_PROVIDER,
        event_id=f"audit/{record}",
        event_type=change.action,
        subject=stored.subject,
        account="",
        livemode=stored.livemode,
        received_at=stored.received_at,
        occurred_at=change.at,
        body=msgspec.json.encode(body),
        headers=(),
        run=stored.run,
    )
