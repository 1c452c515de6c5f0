"""
How a handler runs: in a savepoint of its event's transaction, in a role of its own, and not for
longer than it asked for.

The role, and what the transaction refuses, are a guard against mistakes and not against malice: a
package runs in the worker's process and could do all that the worker can.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from shared import telemetry
from shared.db import Conn, is_cancelled_statement, is_outage, is_platform_fault
from shared.domain.commands import Extension
from shared.domain.events import is_storable
from shared.domain.outcomes import HANDLER_TIMEOUT, NO_HANDLER
from shared.plugin import Event, Handler, Permanent, Result
from shared.store import handlers as store
from workers.ending import end

#: Added to what the server and the client wait for, so that the handler's own limit comes first.
_SLACK_S = 2.0

#: What a worker's connection is told for its look-ups by key is no good for anybody's queries.
_PLANNED_AS_USUAL = {
    "enable_seqscan": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
    "plan_cache_mode": "auto",
}

_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]+)", re.DOTALL)
#: They would end the event's transaction or leave its role, or outlive it in the session.
_REFUSED = frozenset(
    {
        "abort", "begin", "commit", "deallocate", "discard", "end", "listen", "prepare", "release",
        "reset", "rollback", "savepoint", "set", "start", "unlisten",
    }
)  # fmt: skip


class NoHandler(Exception):
    """This process has no handler of that name, or for commands of that type."""

    code = NO_HANDLER

    def __init__(self, name: str, command: str) -> None:
        super().__init__(f"no handler {name or f'of {command}'} is installed")
        self.name = name
        self.command = command


class HandlerFailed(Exception):
    """
    A handler, and not the platform, failed. Its event is charged with `code`; dead at once where
    the failure `is_permanent`.
    """

    def __init__(self, code: str, text: str, *, is_permanent: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.is_permanent = is_permanent


class HandlerTransaction:
    """
    What a handler sees of its event's transaction; see `shared.plugin.Transaction`.

    Statements that are asked for at the same time are run one after the other.
    """

    def __init__(self, conn: Conn, now: datetime, timeout_s: float) -> None:
        self.now = now
        #: (key, payload as JSON) in the order in which they were sent.
        self.messages: list[tuple[str | None, bytes]] = []
        #: What the platform did to a statement, whatever the handler made of it.
        self.outage: Exception | None = None
        #: How long the server has waited for a statement at most: it waits for no handler that
        #: keeps the loop from running.
        self.longest_idle_s = 0.0
        self._idle_since_s = _now_s()
        self._conn = conn
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._is_over = False

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement."""
        status: str = await self._run(self._execute, query, args)
        return status

    async def _execute(self, query: str, *args: Any, timeout: float) -> str:
        # Prepared, it is one statement: a script could hold a COMMIT.
        statement = await self._conn.prepare(query, timeout=timeout)
        await statement.fetch(*args, timeout=timeout)
        return statement.get_statusmsg()

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        """All rows of a query."""
        rows: Sequence[Mapping[str, Any]] = await self._run(self._conn.fetch, query, args)
        return rows

    async def fetchrow(self, query: str, *args: Any) -> Mapping[str, Any] | None:
        """The first row of a query."""
        row: Mapping[str, Any] | None = await self._run(self._conn.fetchrow, query, args)
        return row

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of a query's first row."""
        return await self._run(self._conn.fetchval, query, args)

    def send(self, payload: Any, *, key: str | None = None) -> None:
        """Keep a message, to be stored once the handler is done."""
        self._check()
        self.messages.append((key, msgspec.json.encode(payload)))

    async def close(self) -> None:
        """Wait for the statement under way; whoever has asked for another one is refused."""
        self._is_over = True
        async with self._turn:
            self._note_idle()

    def _note_idle(self) -> None:
        self.longest_idle_s = max(self.longest_idle_s, _now_s() - self._idle_since_s)

    def _check(self) -> None:
        if self._is_over:
            raise RuntimeError("the handler's transaction is over: nothing may outlive handle()")

    async def _run(
        self, run: Callable[..., Awaitable[Any]], query: str, args: Sequence[Any]
    ) -> Any:
        first = _FIRST_WORD.match(query)
        if first is not None and first[1].lower() in _REFUSED:
            raise ValueError(f"{first[1].upper()} is refused: the transaction is the event's own")
        async with self._turn:
            self._check()
            self._note_idle()
            try:
                return await run(query, *args, timeout=self._timeout_s + _SLACK_S)
            except Exception as error:
                if is_outage(error):
                    self.outage = error
                raise
            finally:
                self._idle_since_s = _now_s()


async def run(
    conn: Conn, handler: Handler[Any], event: Event, command: Extension, now: datetime
) -> tuple[Result, list[tuple[str | None, bytes]]]:
    """
    Have a handler apply a command, in a savepoint of the caller's transaction.

    Returns what it did, and its messages: (key or None, payload as JSON).

    Raises:
        HandlerFailed: it failed, or took too long; nothing of what it did is left.
        Exception: a platform's fault.
    """
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    became = "fault"
    try:
        result, messages = await _run_within(conn, handler, event, command, now)
        became = result.outcome
    except HandlerFailed as failed:
        became = "timeout" if failed.code == HANDLER_TIMEOUT else "failed"
        raise
    else:
        return result, messages
    finally:
        telemetry.handled(handler.name, became, loop.time() - begun_s)


def read(handler: Handler[Any], event: Event) -> Extension | None:
    """
    What an event asks of a handler that listens to it; None: nothing.

    Raises:
        HandlerFailed: it does not say.
    """
    try:
        command = handler.read(event)
    except Permanent as error:
        raise _permanent(error) from error
    except (Exception, SystemExit) as error:
        raise HandlerFailed(type(error).__name__, _text_of(error)) from error
    if command is not None and not isinstance(command, handler.command):
        raise HandlerFailed("bad_result", f"read() returned {type(command).__name__}")
    return command


async def _run_within(
    conn: Conn, handler: Handler[Any], event: Event, command: Extension, now: datetime
) -> tuple[Result, list[tuple[str | None, bytes]]]:
    transaction = HandlerTransaction(conn, now, handler.timeout_s)
    try:
        # A savepoint: rolled back, it takes role and limits with it.
        async with conn.transaction():
            before = await store.take_settings(conn, _settings(handler.timeout_s))
            try:
                result = await _bounded(handler, event, command, transaction)
            finally:
                await transaction.close()
            await _check_constraints(conn)
            await store.take_settings(conn, before)
    except HandlerFailed:
        raise
    except Exception as error:
        if transaction.longest_idle_s > handler.timeout_s:
            # The server may have cut it off for that, which looks like an outage.
            raise _late(handler) from error
        if transaction.outage is not None:
            raise transaction.outage from error
        if is_platform_fault(error):
            raise
        # As after a failed statement that the handler went on from, or a COMMIT behind another.
        text = f"the transaction cannot go on after handle(): {_text_of(error)}"
        raise HandlerFailed(type(error).__name__, text) from error
    return result, transaction.messages


async def _check_constraints(conn: Conn) -> None:
    """What a handler's tables defer would fail at the commit, and look like the platform's."""
    try:
        await store.check_constraints(conn)
    except Exception as error:
        if is_outage(error):
            raise
        raise HandlerFailed(type(error).__name__, _text_of(error)) from error


async def _bounded(
    handler: Handler[Any], event: Event, command: Extension, transaction: HandlerTransaction
) -> Result:
    """
    `handle`, for as long as it may take; whatever it raises is told from what others did to it.

    In a task of its own: one that catches its cancellation and goes on is left to itself, without
    a transaction, and keeps neither the lane nor this process's slot.
    """
    handling = asyncio.create_task(_handled(handler, event, command, transaction), name="handler")
    try:
        await asyncio.wait({handling}, timeout=handler.timeout_s)
        is_late = not handling.done()
    finally:
        await end(handling)
    if transaction.outage is not None:
        raise transaction.outage
    if is_late:
        raise _late(handler)
    if handling.cancelled():
        # Of something of its own that it waited for.
        raise HandlerFailed("CancelledError", "what it waited for was cancelled")
    result, error = handling.result()
    if error is not None:
        if is_cancelled_statement(error):
            raise _late(handler) from error
        if isinstance(error, Permanent):
            raise _permanent(error) from error
        raise HandlerFailed(type(error).__name__, _text_of(error)) from error
    return _checked(result)


async def _handled(
    handler: Handler[Any], event: Event, command: Extension, transaction: HandlerTransaction
) -> tuple[object, BaseException | None]:
    """What it returned, or raised: SystemExit would go through a task's end to the loop's."""
    try:
        return await handler.handle(event, command, transaction), None
    except (Exception, SystemExit) as error:
        return None, error


def _checked(result: object) -> Result:
    """
    Raises:
        HandlerFailed: it is no result.
    """
    if not isinstance(result, Result) or result.outcome not in ("applied", "unchanged", "ignored"):
        raise HandlerFailed("bad_result", f"handle() returned {result!r:.200}")
    if result.outcome == "ignored" and not result.code:
        raise HandlerFailed("bad_result", "ignored needs a code")
    for text in (result.code, result.tenant):
        if text is not None and not (isinstance(text, str) and is_storable(text)):
            raise HandlerFailed("bad_result", f"{text!r:.200} is no code and no tenant")
    return result


def _settings(timeout_s: float) -> dict[str, str | None]:
    """What holds while a handler runs, and what is put back after it: it may set more."""
    limit_ms = round(timeout_s * 1000)
    return {
        "role": "sluice_extension",
        "statement_timeout": f"{max(limit_ms, 1)}ms",
        # Thinking is allowed, and a process that was paused is cut off all the same.
        "idle_in_transaction_session_timeout": f"{limit_ms + round(_SLACK_S * 1000)}ms",
        "lock_timeout": None,
        "search_path": None,
        **_PLANNED_AS_USUAL,
    }


def _late(handler: Handler[Any]) -> HandlerFailed:
    return HandlerFailed(HANDLER_TIMEOUT, f"took longer than {handler.timeout_s:g} s")


def _permanent(error: Permanent) -> HandlerFailed:
    code = error.code if isinstance(error.code, str) and is_storable(error.code) else "permanent"
    return HandlerFailed(code, _text_of(error), is_permanent=True)


def _text_of(error: BaseException) -> str:
    with suppress(Exception):
        return str(error) or repr(error)
    return type(error).__name__


def _now_s() -> float:
    return asyncio.get_running_loop().time()
