"""
An installed package, for tests: a provider whose events say what their handler does, and a handler
that writes down whatever is brought to it.

Both write into tables of their own, without any unique key: what is applied twice is there twice.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from shared.plugin import (
    Arrival,
    Command,
    Event,
    Extension,
    Handler,
    Headers,
    Identity,
    Item,
    ObjectState,
    Observe,
    PayloadError,
    Permanent,
    Provider,
    Result,
    Transaction,
)

TABLES = """
CREATE SCHEMA doing;
CREATE TABLE doing.done (tracking_id uuid, does text, run integer, at timestamptz DEFAULT now());
CREATE TABLE doing.records (
    handler text, tracking_id uuid, source text, provider text, event_id text, type text,
    subject text, livemode boolean, body text, run integer, position bigserial
);
CREATE TABLE doing.named (name text PRIMARY KEY);
CREATE TABLE doing.naming (name text REFERENCES doing.named DEFERRABLE INITIALLY DEFERRED);
GRANT USAGE ON SCHEMA doing TO sluice_extension;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA doing TO sluice_extension;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA doing TO sluice_extension;
"""


class Do(Extension, frozen=True):
    """Do as the event says."""

    does: str
    number: float = 0


class Record(Extension, frozen=True):
    """Write the event down."""


class Doing(Provider):
    """Bodies are {"id", "does": [...], "number"}; nobody signs them."""

    name = "doing"
    secret_hint = "any"
    reads_headers = True

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        return 0

    def identify(self, headers: Headers, body: bytes) -> Identity:
        try:
            read = json.loads(body)
            return Identity(read["id"], "doing.asked", f"thing/{read['id']}")
        except (ValueError, KeyError, TypeError):
            raise PayloadError("not read") from None

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        read = json.loads(arrival.body)
        commands: list[Command] = []
        for does in read["does"]:
            if does == "subscribe":
                item = Item(refs=("prod_pro",), quantity=1)
                state = ObjectState(status="active", tenant=read["id"], items=(item,))
                commands.append(Observe("subscription", read["id"], 1, "point", None, state))
            elif does == "end_too_early":
                raise EOFError("as after half of a compressed file")
            elif does == "ask_for_nonsense":
                commands.append("nonsense")  # type: ignore[arg-type]
            else:
                commands.append(Do(does, read.get("number", 0)))
        return commands

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        return ()


INSERT = "INSERT INTO doing.done (tracking_id, does, run) VALUES ($1, $2, $3)"


class Doer(Handler[Do]):
    """Does as it is told."""

    name = "doer"
    command = Do
    timeout_s = 0.5

    async def handle(self, event: Event, command: Do, transaction: Transaction) -> Result:
        await transaction.execute(INSERT, event.tracking_id, command.does, event.run)
        does = getattr(self, f"_{command.does}", None)
        result = await does(event, command, transaction) if does else None
        return result or Result()

    async def _fail(self, event: Event, command: Do, transaction: Transaction) -> None:
        raise LookupError("as it was told")

    async def _fail_unspeakably(self, event: Event, command: Do, transaction: Transaction) -> None:
        raise ValueError("\ud800\0")

    async def _fail_permanently(self, event: Event, command: Do, transaction: Transaction) -> None:
        raise Permanent("no_such_thing", "it is not there")

    async def _ignore(self, event: Event, command: Do, transaction: Transaction) -> Result:
        return Result("ignored", "not_mine", "tenant-x")

    async def _return_nonsense(self, event: Event, command: Do, transaction: Transaction) -> Result:
        return Result("superseded")  # type: ignore[arg-type]

    async def _sleep(self, event: Event, command: Do, transaction: Transaction) -> None:
        await asyncio.sleep(command.number or 10)

    async def _sleep_there(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.execute("SELECT pg_sleep(10)")

    async def _go_on_when_late(self, event: Event, command: Do, transaction: Transaction) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await transaction.execute(INSERT, event.tracking_id, "late", event.run)

    async def _refuse_to_stop(self, event: Event, command: Do, transaction: Transaction) -> None:
        until_s = time.monotonic() + 8
        while time.monotonic() < until_s:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)
        await transaction.execute(INSERT, event.tracking_id, "too late", event.run)

    async def _block(self, event: Event, command: Do, transaction: Transaction) -> None:
        time.sleep(3)  # longer than the server waits for the next statement
        await transaction.execute(INSERT, event.tracking_id, "late", event.run)

    async def _leave_tasks(self, event: Event, command: Do, transaction: Transaction) -> None:
        self.left = [
            asyncio.create_task(transaction.execute("SELECT pg_sleep(0.3)")) for _ in range(200)
        ]
        await asyncio.sleep(10)

    async def _give_up(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")

    async def _look_like_an_outage(
        self, event: Event, command: Do, transaction: Transaction
    ) -> None:
        await transaction.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '57P02'; END $$")

    async def _hang(self, event: Event, command: Do, transaction: Transaction) -> None:
        time.sleep(3600)

    async def _kill(self, event: Event, command: Do, transaction: Transaction) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def _exit(self, event: Event, command: Do, transaction: Transaction) -> None:
        sys.exit(1)

    async def _be_cancelled(self, event: Event, command: Do, transaction: Transaction) -> None:
        waiting = asyncio.create_task(asyncio.sleep(10))
        await asyncio.sleep(0)
        waiting.cancel()
        await waiting

    async def _swallow(self, event: Event, command: Do, transaction: Transaction) -> None:
        try:
            await transaction.execute("SELECT 1/0")
        except Exception:
            return

    async def _commit(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.execute(" /* now */ Commit")

    async def _commit_behind(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.execute("SELECT 1; COMMIT")

    async def _defer(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO doing.naming (name) VALUES ('nobody')")

    async def _read_tenants(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.fetch("SELECT * FROM public.tenants")

    async def _look_for_nothing(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.fetch("SELECT * FROM doing.nothing")

    async def _move_away(self, event: Event, command: Do, transaction: Transaction) -> None:
        await transaction.fetchval("SELECT set_config('search_path', 'doing', true)")

    async def _at_once(self, event: Event, command: Do, transaction: Transaction) -> None:
        await asyncio.gather(
            *(transaction.execute(INSERT, event.tracking_id, "at once", event.run) for _ in "abc")
        )

    async def _ask_who(self, event: Event, command: Do, transaction: Transaction) -> None:
        who = await transaction.fetchrow(
            "SELECT current_user::text AS who, current_setting('statement_timeout') AS limit,"
            " current_setting('enable_seqscan') AS scans"
        )
        assert who is not None
        assert (who["who"], who["limit"], who["scans"]) == ("sluice_extension", "500ms", "on")
        assert await transaction.fetchval("SELECT now()") == transaction.now

    async def _send(self, event: Event, command: Do, transaction: Transaction) -> None:
        transaction.send({"n": 1})
        transaction.send({"n": 2}, key="the-second")
        transaction.send({"n": 3})

    async def _send_nonsense(self, event: Event, command: Do, transaction: Transaction) -> None:
        transaction.send({"n": 1}, key="k" * 300)


class Recorder(Handler[Record]):
    """Writes down what it hears of Stripe, and every entitlement that changes."""

    name = "recorder"
    command = Record
    listens_to = ("stripe:customer.subscription.*", "sluice:entitlement.*", "doing:*")

    def read(self, event: Event) -> Record | None:
        return None if b"not for the recorder" in event.body else Record()

    async def handle(self, event: Event, command: Record, transaction: Transaction) -> Result:
        await transaction.execute(
            "INSERT INTO doing.records (handler, tracking_id, source, provider, event_id, type,"
            " subject, livemode, body, run) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            self.name, event.tracking_id, event.source, event.provider, event.event_id,
            event.event_type, event.subject, event.livemode, event.body.decode(), event.run,
        )  # fmt: skip
        if b"fails in the recorder" in event.body and event.run == 1:
            raise LookupError("as it was told")
        return Result()
