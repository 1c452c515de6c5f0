"""
Kill whoever sends, at every moment of it: the receiver misses nothing, and after its dedupe by key
has each change once (acceptance 4).

Workers are real processes, killed by the receiver or by the test. A lease lasts four seconds here.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shared import db
from shared.settings import Settings
from shared.store.outbox import NewMessage, add_messages
from tests.stack.processes import ROOT
from tests.support.receiver import (
    AFTER,
    ANSWERED,
    BEFORE,
    HANDLED,
    POSTED,
    Receiver,
    Request,
    install,
    receiver,
)
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.stack import processes
from workers.stack.servers import Servers
from workers.stack.spawn import Life, spawn

LEASE_S = 4.0
LOST = "a lease was lost: the message is sent again"
WAITING_FOR = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'sluice_worker' AND wait_event_type = 'Lock'
"""


@dataclass
class Scene:
    """A database, a receiver, and the worker processes of a test."""

    stack: Stack
    receiver: Receiver
    home: Path
    packages: Path
    lives: list[Life] = field(default_factory=list)
    put: dict[str, Any] = field(default_factory=dict)  # what must arrive, by the receiver's key

    async def start(self, *, solitary: bool = False) -> Life:
        """A worker, or who works alone, as `sluice up` starts them; its log in a file."""
        children = processes.fleet(
            Settings(home=self.home), self.stack.endpoints, first_admin_port=0
        )
        child = children[solitary]
        env = dict(child.env) | {
            "OUTPOST_URL": self.receiver.url,
            "PYTHONPATH": f"{self.packages}:{ROOT}",
            "SLUICE_SEND_TIMEOUT_S": str(LEASE_S / 2),
            "SLUICE_RETRY_BASE_S": "0.2",
        }
        log = self.log(len(self.lives))
        argv = ("/bin/sh", "-c", 'log="$1"; shift; exec "$@" 2>"$log"', "sh", str(log), *child.argv)
        life = await spawn(replace(child, argv=argv, env=env, heartbeat=False))
        self.lives.append(life)
        return life

    def log(self, number: int) -> Path:
        """Of the worker that was started as the so-manyeth."""
        return self.home.with_name(f"worker-{number}.log")

    def logged(self, number: int, text: str) -> list[dict[str, Any]]:
        """The lines of a worker's log with this message."""
        lines = [json.loads(one) for one in self.log(number).read_text().splitlines()]
        return [one for one in lines if one.get("msg") == text]

    def kill(self, pid: int) -> None:
        """SIGKILL one of our workers."""
        next(life for life in self.lives if life.pid == pid).kill()

    async def end(self) -> None:
        for life in self.lives:
            life.kill()
            await life.wait()
            life.close()

    async def say(self, *texts: str, commit: bool = True) -> list[str]:
        """Put messages in, as a handler's transaction does; the keys that the receiver gets."""
        tracking_id = uuid4()
        keys = [f"{tracking_id}:{number}" for number in range(len(texts))]
        messages = [
            NewMessage(key, "outpost", tracking_id, json.dumps({"text": text}).encode())
            for key, text in zip(keys, texts, strict=True)
        ]
        sent = [f"outpost:{key}" for key in keys]
        with contextlib.suppress(_Rollback):
            async with self.stack.crew.db.transaction() as conn:
                await add_messages(conn, messages)
                if not commit:
                    raise _Rollback
            self.put |= {key: {"text": text} for key, text in zip(sent, texts, strict=True)}
        return sent

    async def learn(self) -> None:
        """From now on what is in the database must arrive, whoever put it in."""
        rows = await self.stack.fetch("SELECT handler, key, payload FROM messages")
        stored = {f"{one['handler']}:{one['key']}": json.loads(one["payload"]) for one in rows}
        assert self.put.items() <= stored.items()
        self.put = stored

    async def is_done(self) -> bool:
        """Whether nothing is left to send."""
        return await self.stack.value("SELECT count(*) FROM outbox") == 0

    async def check(self) -> None:
        """Everything came, nothing else did, and each change is there once and unchanged."""
        await until(self.is_done, 60)
        assert self.receiver.kept == self.put
        assert self.receiver.changed == []
        assert {post.key for post in self.receiver.posts} == self.put.keys()
        ends = await self.stack.fetch("SELECT outcome, count(*) FROM sendings GROUP BY outcome")
        assert [tuple(row) for row in ends] == [("sent", len(self.put))]

    async def row(self) -> Any:
        """The one row of the outbox, or None."""
        rows = await self.stack.fetch("SELECT * FROM outbox")
        return rows[0] if rows else None


class _Rollback(Exception):
    pass


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 30.0) -> None:
    """Wait for an async condition."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest.fixture
async def scene(stack: Stack, tmp_path: Path) -> AsyncIterator[Scene]:
    async with receiver() as listening:
        made = Scene(stack, listening, tmp_path / "home", install(tmp_path / "packages"))
        yield made
        await made.end()


@asynccontextmanager
async def locked_row(scene: Scene) -> AsyncIterator[None]:
    """Hold the message's row: nobody claims it, and who settles it waits."""
    url = scene.stack.endpoints.database["owner"]
    async with db.connect(url, "owner") as holder, holder.transaction():
        await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await holder.execute("SELECT FROM outbox FOR UPDATE")
        yield


# One moment after the other --------------------------------------------------------------------


async def test_what_was_not_committed_is_never_sent(scene: Scene) -> None:
    """Before the commit there is no message: its transaction's end takes it along."""
    await scene.start()
    await scene.say("meant it not", commit=False)
    async with db.connect(scene.stack.endpoints.database["worker"], "worker") as conn:
        cut = NewMessage("cut", "outpost", uuid4(), b'{"text": "cut off"}')
        turn = conn.transaction()
        await turn.start()
        await add_messages(conn, [cut])
        pid = await conn.fetchval("SELECT pg_backend_pid()")
        await scene.stack.value("SELECT pg_terminate_backend($1)", pid)
    await scene.say("meant it")
    await scene.check()
    assert len(scene.receiver.posts) == 1


async def test_killed_before_the_handlers_transaction_commits(scene: Scene) -> None:
    """It has said what is to be sent, and dies: nothing was said. The event is handled again."""
    killed: list[int] = []

    async def kill(request: Request) -> None:
        if request.moment == HANDLED and not killed:
            killed.append(request.pid)
            scene.kill(request.pid)

    scene.receiver.hook = kill
    first = await scene.start()
    await until(lambda: scene.stack.value("SELECT count(*) FROM handlers WHERE xid IS NOT NULL"))
    await scene.stack.receive(
        event("customer.subscription.created", subscription(), event_id="evt_1")
    )
    await asyncio.wait_for(first.wait(), 30)
    assert killed == [first.pid]
    assert await scene.stack.value("SELECT count(*) FROM messages") == 0
    await scene.start()
    await scene.start(solitary=True)  # what killed a worker is applied alone
    await until(lambda: scene.stack.value("SELECT count(*) FROM messages"), 60)
    await scene.learn()
    assert list(scene.put.values()) == [{"text": "evt_1"}]
    await scene.check()
    assert len(scene.receiver.posts) == 1


async def test_killed_after_the_commit_and_before_the_claim(scene: Scene) -> None:
    """The message was there, a worker ran, and had not got to it."""
    await scene.say("waiting")
    async with locked_row(scene):
        worker = await scene.start()
        await until(lambda: _is_connected(scene))
        await asyncio.sleep(1.5)  # in which it looks, and steps over what is locked
        worker.kill()
        await worker.wait()
    assert scene.receiver.posts == []
    assert (await scene.row())["lease_token"] is None
    await scene.start()
    await scene.check()
    assert [post.attempt for post in scene.receiver.posts] == [1]


@pytest.mark.parametrize("moment", [BEFORE, POSTED, ANSWERED, AFTER])
async def test_killed_at_every_moment_of_a_sending(scene: Scene, moment: str) -> None:
    """
    After the claim and before the send; while the receiver has it and has done nothing; when it has
    done it and has not answered; after the answer and before the settlement. The next sending has
    the same key.
    """
    killed: list[Request] = []

    async def kill(request: Request) -> int | None:
        if request.moment != moment or killed:
            return None
        killed.append(request)
        row = await scene.row()
        assert row["lease_token"] is not None  # committed before anything went out
        assert row["attempts"] == 1
        scene.kill(request.pid)
        return 500

    scene.receiver.hook = kill
    (key,) = await scene.say("once")
    first = await scene.start()
    await asyncio.wait_for(first.wait(), 30)
    assert await scene.stack.value("SELECT count(*) FROM sendings") == 0
    assert (moment in (ANSWERED, AFTER)) == (key in scene.receiver.kept)
    second = await scene.start()
    await scene.check()
    assert [one.key for one in killed] == [key]
    posted = [(post.pid, post.key) for post in scene.receiver.posts]
    assert posted == [(first.pid, key)] * (moment != BEFORE) + [(second.pid, key)]


async def test_killed_while_it_settles(scene: Scene) -> None:
    """The settlement waits for a lock when its process dies: nothing of it stays."""
    (key,) = await scene.say("once")
    first = await scene.start()
    answering = asyncio.Event()

    async def hold(request: Request) -> None:
        if request.moment == ANSWERED:
            await answering.wait()

    scene.receiver.hook = hold
    await until(lambda: _returns(bool(scene.receiver.posts)))
    async with locked_row(scene):
        answering.set()

        async def is_settling() -> Any:
            return await scene.stack.fetch(WAITING_FOR)

        await until(is_settling, 10)
        (waiting,) = await scene.stack.fetch(WAITING_FOR)
        first.kill()
        await first.wait()

        async def is_gone() -> bool:
            gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1"
            return bool(await scene.stack.value(gone, waiting["pid"]))

        await until(is_gone, 15)
    assert await scene.stack.value("SELECT count(*) FROM sendings") == 0
    second = await scene.start()
    await scene.check()
    assert [(post.pid, post.key) for post in scene.receiver.posts] == [
        (first.pid, key),
        (second.pid, key),
    ]


@pytest.mark.parametrize("moment", [ANSWERED, AFTER])
async def test_a_zombies_settlement_does_not_count(scene: Scene, moment: str) -> None:
    """
    Paused until its lease ran out and another had it. Stopped before it read the answer, it comes
    back too late; stopped when it had it, it comes back to settle. Neither changes anything.
    """
    (key,) = await scene.say("once")
    zombies: list[int] = []
    let_go = asyncio.Event()

    async def hold(request: Request) -> int | None:
        if not zombies and request.moment == moment:
            zombies.append(request.pid)
            if moment == AFTER:
                return 299
            os.kill(request.pid, signal.SIGSTOP)
        elif zombies and zombies != [request.pid] and request.moment == ANSWERED:
            await let_go.wait()
        return None

    scene.receiver.hook = hold
    zombie = await scene.start()
    await until(lambda: _returns(_is_stopped(zombie.pid)))
    lost = (await scene.row())["lease_token"]
    other = await scene.start()
    await until(lambda: _returns(len(scene.receiver.posts) == 2))
    os.kill(zombie.pid, signal.SIGCONT)
    await until(lambda: _returns(scene.logged(0, LOST)))
    assert await scene.stack.value("SELECT count(*) FROM sendings") == 0
    assert (await scene.row())["lease_token"] != lost
    let_go.set()
    await scene.check()
    assert {post.key for post in scene.receiver.posts} == {key}
    assert [post.pid for post in scene.receiver.posts][:2] == [zombie.pid, other.pid]


async def test_a_zombie_does_not_begin_to_send(scene: Scene) -> None:
    """Paused between its claim and its sending: back again, it sees that its time is over."""
    (key,) = await scene.say("once")
    asked: dict[int, asyncio.Event] = {}

    async def pause(request: Request) -> None:
        if request.moment == BEFORE and not asked:
            asked[request.pid] = asyncio.Event()
            os.kill(request.pid, signal.SIGSTOP)

    scene.receiver.hook = pause
    zombie = await scene.start()
    await until(lambda: _returns(bool(asked)))
    other = await scene.start()
    await scene.check()
    os.kill(zombie.pid, signal.SIGCONT)
    await until(lambda: _returns(scene.logged(0, LOST)))
    await asyncio.sleep(0.5)
    assert [(post.pid, post.key) for post in scene.receiver.posts] == [(other.pid, key)]
    ends = await scene.stack.fetch("SELECT outcome, attempts FROM sendings")
    assert [tuple(row) for row in ends] == [("sent", 2)]


async def test_a_stopped_worker_gives_its_leases_back_at_once(scene: Scene) -> None:
    """The next one need not wait until they run out, and nobody is charged."""
    texts = [f"message {number}" for number in range(20)]
    await scene.say(*texts)
    held: list[Request] = []
    let_go = asyncio.Event()

    async def hold(request: Request) -> None:
        if request.moment == BEFORE and not let_go.is_set():
            held.append(request)
            await let_go.wait()

    scene.receiver.hook = hold
    worker = await scene.start()
    await until(lambda: _returns(bool(held)))
    worker.send(signal.SIGTERM)
    assert await asyncio.wait_for(worker.wait(), 15) == 0
    rows = await scene.stack.fetch("SELECT attempts, lease_token FROM outbox")
    assert {tuple(row) for row in rows} == {(0, None)}
    assert len(rows) == len(texts)
    let_go.set()
    await scene.start()
    await scene.check()
    assert {post.attempt for post in scene.receiver.posts} == {1}


async def test_postgres_dies_between_the_answer_and_the_settlement(
    scene: Scene, servers: Servers
) -> None:
    """The worker waits for it to come back, and settles what was sent: nothing is sent again."""
    await scene.say("once")
    is_dead = asyncio.Event()

    async def crash(request: Request) -> None:
        if request.moment == AFTER:
            await servers.postgres.kill()
            is_dead.set()

    scene.receiver.hook = crash
    await scene.start()
    async with asyncio.timeout(30):
        await is_dead.wait()
    await asyncio.sleep(0.7)  # the first tries to settle find nobody
    await servers.postgres.start()
    await scene.check()
    assert len(scene.receiver.posts) == 1


# All at once ------------------------------------------------------------------------------------


async def test_random_kills(scene: Scene, servers: Servers) -> None:
    """Twenty seconds of kills, refusals, rollbacks and a crash of Postgres, with 500 messages."""
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(10**9)
    print(f"TEST_SEED={seed}")
    rng = random.Random(seed)
    kills = 0
    is_over = False

    async def misbehave(request: Request) -> int | None:
        nonlocal kills
        if is_over:
            return None
        await asyncio.sleep(rng.uniform(0, 0.1))
        if rng.random() < 0.015:
            kills += 1
            scene.kill(request.pid)
        return 503 if request.moment == POSTED and rng.random() < 0.05 else None

    async def talk() -> None:
        for number in itertools.count():
            texts = [f"message {number}.{part}" for part in range(5)]
            with contextlib.suppress(Exception):  # Postgres may be away; then nothing was put in
                await scene.say(*texts)
                await scene.say("never", commit=False)
            if len(scene.put) >= 500:
                return
            await asyncio.sleep(0.15)

    async def attend() -> None:
        """Three workers, whoever is killed; some of them by us."""
        nonlocal kills
        working: list[Life] = []
        while True:
            working = [life for life in working if life._process.returncode is None]
            while len(working) < 3:
                working.append(await scene.start())
            if rng.random() < 0.1:
                kills += 1
                rng.choice(working).kill()
            await asyncio.sleep(0.3)

    scene.receiver.hook = misbehave
    attending = asyncio.create_task(attend())
    talking = asyncio.create_task(talk())
    await asyncio.sleep(10)
    await servers.postgres.kill()
    await servers.postgres.start()
    await asyncio.sleep(10)
    await talking
    is_over = True
    attending.cancel()
    await asyncio.gather(attending, return_exceptions=True)
    # What was cut off at its commit may have been put in all the same.
    await scene.learn()
    assert "never" not in {payload["text"] for payload in scene.put.values()}
    await scene.check()
    posts, attempts = (
        len(scene.receiver.posts),
        await scene.stack.value("SELECT max(attempts) FROM sendings"),
    )
    print(f"{len(scene.put)} messages, {kills} kills, {posts} posts, at most {attempts} attempts")
    assert kills >= 10
    assert posts > len(scene.put)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def _returns(value: Any) -> Any:
    return value


async def _is_connected(scene: Scene) -> bool:
    return bool(
        await scene.stack.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'sluice worker-1%'"
        )
    )
