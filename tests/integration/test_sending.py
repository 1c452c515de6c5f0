"""Sending in this process, against a real Postgres: who is charged, who waits, what is kept."""

import asyncio
import contextlib
import sys
import time
from typing import Any
from uuid import uuid4

import pytest

from shared.domain.outcomes import RetryPolicy
from shared.plugin import Outgoing, Permanent
from shared.store import outbox
from shared.store.outbox import NewMessage, add_messages
from tests.support.sending import Sender, look, put, run_until
from tests.support.stack import Stack
from workers.sending.send import Pace, Sending


async def row(stack: Stack) -> dict[str, Any]:
    (found,) = await stack.fetch(
        "SELECT *, extract(epoch FROM due_at - now())::float8 AS wait_s FROM outbox"
    )
    return dict(found)


async def ends(stack: Stack) -> list[tuple[Any, ...]]:
    rows = await stack.fetch("SELECT outcome, code, attempts FROM sendings ORDER BY message")
    return [tuple(one) for one in rows]


async def refuse(_: Outgoing) -> None:
    raise ConnectionRefusedError("nobody is there")


async def refuse_to_stop(_: Outgoing) -> None:
    until_s = time.monotonic() + 6
    while time.monotonic() < until_s:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)


async def hang(_: Outgoing) -> None:
    await asyncio.sleep(3600)


# Putting in -------------------------------------------------------------------------------------


async def test_a_key_is_sent_once_by_each_handler(stack: Stack) -> None:
    async with stack.crew.db.transaction() as conn:
        first = NewMessage("a", "mail", uuid4(), b'{"n": 1}')
        await add_messages(conn, [first, NewMessage("a", "mail", uuid4(), b'{"n": 2}')])
        await add_messages(conn, [NewMessage("a", "slack", uuid4(), b'{"n": 3}')])
        await add_messages(conn, [])
    mail, slack = Sender("mail"), Sender("slack")
    sending = Sending(stack.crew, {"mail": mail, "slack": slack})
    await look(sending)
    assert [(one.key, one.payload, one.attempt) for one in mail.sent] == [("mail:a", {"n": 1}, 1)]
    assert [(one.key, one.payload) for one in slack.sent] == [("slack:a", {"n": 3})]
    assert mail.sent[0].created_at == await stack.value("SELECT min(created_at) FROM messages")
    # Not again either, now that it has been sent.
    async with stack.crew.db.transaction() as conn:
        await add_messages(conn, [NewMessage("a", "mail", uuid4(), b'{"n": 4}')])
    await look(sending)
    assert len(mail.sent) == 1
    assert await stack.value("SELECT count(*) FROM messages") == 2
    assert await ends(stack) == [("sent", None, 1)] * 2


@pytest.mark.parametrize("key", ["", "k" * 251, "a\0b", "\ud800"])
async def test_a_key_that_cannot_be_sent_is_refused(stack: Stack, key: str) -> None:
    async with stack.crew.db.connection() as conn:
        with pytest.raises(ValueError, match=r"key|surrogates"):
            await add_messages(conn, [NewMessage(key, "mail", uuid4(), b"1")])
        await add_messages(conn, [NewMessage("k" * 250, "mail", uuid4(), b"1")])
    assert await stack.value("SELECT count(*) FROM outbox") == 1


async def test_two_transactions_with_crossed_keys_both_end(stack: Stack) -> None:
    async def talk(keys: list[str]) -> None:
        async with stack.crew.db.transaction() as conn:
            new = [NewMessage(key, "mail", uuid4(), b"1") for key in keys]
            await add_messages(conn, new)
            await asyncio.sleep(0.05)

    keys = [f"key-{n}" for n in range(200)]
    await asyncio.gather(*(talk(keys if n % 2 else keys[::-1]) for n in range(6)))
    assert await stack.value("SELECT count(*) FROM outbox") == 200


# Failing ----------------------------------------------------------------------------------------


async def test_a_failed_attempt_waits_and_the_last_one_is_the_end(stack: Stack) -> None:
    mail = Sender("mail", refuse)
    sending = Sending(stack.crew, {"mail": mail})
    await put(stack, "mail", 1)
    quick, stack.crew.retry = stack.crew.retry, RetryPolicy(4, 100, 100)
    await look(sending, 2)
    waiting = await row(stack)
    assert (waiting["attempts"], waiting["last_code"]) == (1, "failed")
    assert waiting["last_error"] == "nobody is there"
    assert waiting["lease_token"] is None
    assert 30 < waiting["wait_s"] <= 100
    await stack.fetch("UPDATE outbox SET due_at = now()")
    stack.crew.retry = quick
    most = stack.crew.retry.max_attempts
    async with asyncio.timeout(10):
        while not await ends(stack):
            await look(sending)
            await asyncio.sleep(0.02)
    assert await ends(stack) == [("dead", "attempts_exhausted", most)]
    assert [one.attempt for one in mail.tried] == list(range(1, most + 1))
    assert len({one.key for one in mail.tried}) == 1


async def test_what_is_permanent_is_dead_at_once(stack: Stack) -> None:
    async def gone(_: Outgoing) -> None:
        raise Permanent("no_such_channel", "they said 404\0")

    await put(stack, "mail", 1)
    await look(Sending(stack.crew, {"mail": Sender("mail", gone)}), 2)
    assert await ends(stack) == [("dead", "no_such_channel", 1)]
    assert await stack.value("SELECT error FROM sendings") == "they said 404␀"


async def test_odd_failures_are_failures(stack: Stack) -> None:
    async def cancel(_: Outgoing) -> None:
        raise asyncio.CancelledError

    async def unspeakable(_: Outgoing) -> None:
        raise ValueError("\ud800\0")

    odd = {"a": Sender("a", cancel), "b": Sender("b", unspeakable), "c": Sender("c", hang)}
    for name in odd:
        await put(stack, name, 1)
    await look(Sending(stack.crew, odd, Pace(send_s=0.3, lease_s=5)))
    rows = await stack.fetch("SELECT handler, last_code, last_error FROM outbox ORDER BY handler")
    assert [tuple(one) for one in rows] == [
        ("a", "failed", "what it waited for was cancelled"),
        ("b", "failed", "?␀"),
        ("c", "timeout", "not sent within 0.3 s"),
    ]


@pytest.mark.timeout(30)
async def test_one_that_does_not_stop_keeps_no_place(stack: Stack) -> None:
    """Its attempt has failed in time, and its message may come again."""
    stack.crew.retry = RetryPolicy(1, 0.01, 0.02)
    await put(stack, "mail", 1)
    sending = Sending(
        stack.crew, {"mail": Sender("mail", refuse_to_stop)}, Pace(send_s=0.3, lease_s=5)
    )
    begun_s = time.monotonic()
    await look(sending)
    assert time.monotonic() - begun_s < 4
    assert await ends(stack) == [("dead", "attempts_exhausted", 1)]


async def test_odd_codes_and_exits_are_failures_too(stack: Stack) -> None:
    """The lease is settled at once, and a breaker that tries one hears what became of it."""

    async def number(_: Outgoing) -> None:
        raise Permanent(404)  # type: ignore[arg-type]

    async def leave(_: Outgoing) -> None:
        sys.exit(1)

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("nor this")

    async def unspeakable(_: Outgoing) -> None:
        raise Unspeakable

    odd = {"a": Sender("a", number), "b": Sender("b", leave), "c": Sender("c", unspeakable)}
    for name in odd:
        await put(stack, name, 1)
    await look(Sending(stack.crew, odd))
    assert await ends(stack) == [("dead", "404", 1)]
    rows = await stack.fetch("SELECT handler, last_code, last_error FROM outbox ORDER BY handler")
    assert [tuple(one) for one in rows] == [("b", "failed", "1"), ("c", "failed", "Unspeakable")]


async def test_what_nobody_here_can_send_is_left_alone(stack: Stack) -> None:
    await put(stack, "uninstalled", 3)
    await put(stack, "mail", 1)
    mail = Sender("mail")
    sending = Sending(stack.crew, {"mail": mail})
    await look(sending, 3)
    assert len(mail.sent) == 1
    rows = await stack.fetch("SELECT attempts, lease_token FROM outbox")
    assert [tuple(one) for one in rows] == [(0, None)] * 3
    # But it is seen that they wait.
    assert sending.unsent["uninstalled"].messages == 3
    later = Sending(stack.crew, {"uninstalled": Sender("uninstalled")})
    await look(later)
    assert await stack.value("SELECT count(*) FROM outbox") == 0


async def test_a_lease_that_ran_out_is_charged_and_put_off(stack: Stack) -> None:
    """What kills its process again and again must end, and not together with its neighbours."""
    await put(stack, "mail", 3)
    most = stack.crew.retry.max_attempts
    mail = Sender("mail")
    sending = Sending(stack.crew, {"mail": mail})

    async def die() -> None:
        async with stack.crew.db.connection() as conn:
            await outbox.claim(conn, "mail", 3, uuid4(), 0.0)

    for death in range(1, most + 1):
        await stack.fetch("UPDATE outbox SET due_at = now()")
        await die()
        await look(sending)
        if death < most:
            rows = await stack.fetch("SELECT attempts, last_code FROM outbox")
            assert [tuple(one) for one in rows] == [(death, "process_died")] * 3
            due = await stack.fetch("SELECT DISTINCT due_at FROM outbox")
            assert len(due) == 3
    assert mail.tried == []
    assert await ends(stack) == [("dead", "process_died", most)] * 3


# Side by side -----------------------------------------------------------------------------------


async def test_neither_a_slow_nor_a_dead_handler_holds_up_another(stack: Stack) -> None:
    await put(stack, "slow", 100)
    await put(stack, "dead", 100)
    await put(stack, "good", 100)
    slow, good = Sender("slow", hang), Sender("good")
    handlers = {"slow": slow, "dead": Sender("dead", refuse), "good": good}
    begun = time.monotonic()
    await run_until(Sending(stack.crew, handlers, Pace(at_once=4)), lambda: len(good.sent) == 100)
    assert time.monotonic() - begun < 10
    assert slow.most_at_once == 4
    # Stopped, it has given back what it held, uncharged.
    held = await stack.fetch("SELECT attempts, lease_token FROM outbox WHERE handler = 'slow'")
    assert {tuple(one) for one in held} == {(0, None)}


async def test_a_dead_receiver_uses_up_few_attempts_of_ten_thousand(stack: Stack) -> None:
    """The breaker asks one after the other; once one is answered, all go on."""
    await put(stack, "mail", 10_000)
    is_back = False

    async def maybe(_: Outgoing) -> None:
        if not is_back:
            raise ConnectionRefusedError

    mail = Sender("mail", maybe)
    other = Sender("other")
    sending = Sending(stack.crew, {"mail": mail, "other": other}, Pace(at_once=8))
    running = asyncio.create_task(sending.run())
    worst = 0.0
    for number in range(5):
        begun = time.monotonic()
        await put(stack, "other", 1, first=number)
        async with asyncio.timeout(10):
            while len(other.sent) == number:
                await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - begun)
        await asyncio.sleep(0.3)
    charged = await stack.value("SELECT count(*) FROM outbox WHERE attempts > 0")
    assert charged == len({one.key for one in mail.tried}) <= 20
    is_back, begun = True, time.monotonic()
    async with asyncio.timeout(60):
        while len(mail.sent) < 1_000:
            await asyncio.sleep(0.05)
    took = time.monotonic() - begun
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    print(f"{charged} charged; another handler's message took {worst:.2f} s at most; "
          f"1,000 were sent in {took:.1f} s")  # fmt: skip
    assert worst < 5
    assert len({one.key for one in mail.sent}) == len(mail.sent)


async def test_a_claim_costs_the_same_however_many_wait(stack: Stack) -> None:
    """By its buffers, which do not depend on what else the machine does."""

    async def buffers() -> int:
        async with stack.crew.db.connection() as conn:
            turn = conn.transaction()
            await turn.start()
            plan = await conn.fetch(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) {outbox.CLAIM}", "mail", 8, uuid4(), 60.0
            )
            await turn.rollback()
        lines = [one[0] for one in plan]
        assert not any("Seq Scan" in line or "Sort Key: o.due_at" in line for line in lines), lines
        total = next(line for line in lines if "Buffers:" in line)
        return sum(int(part.split("=")[1]) for part in total.split() if "=" in part)

    await put(stack, "mail", 1_000)
    few = await buffers()
    for first in range(1_000, 50_000, 1_000):
        await put(stack, "mail", 1_000, first)
    many = await buffers()
    print(f"a claim of 8 touches {few} pages of 1,000 messages, {many} of 50,000")
    assert many < 2 * few + 20
