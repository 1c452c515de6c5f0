"""
A worker process: arq for wake-ups, rounds for the lanes, fetching for what they lack, sending for
what they have to say, a sweep for everything else.

arq runs under our own supervision and with our own pool: it exits with the first connection that
Redis refuses, and hangs with a Redis that hangs. Its jobs do nothing but wake lanes and note when
tokens were used, so none can be lost, late or doubled to any effect.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from arq.worker import Worker, func
from redis.exceptions import RedisError

from shared.artifacts import Artifacts
from shared.queue import DRAIN, NOTE_USE, QUEUE_NAME, deserialize_job, redis_pool, serialize_job
from shared.sealing import KeyRing, SealingError
from shared.settings import Endpoints, Settings
from shared.store import tokens
from shared.store.pulls import What
from workers.checkpoints import Checkpointing
from workers.crew import Crew, run_process
from workers.extensions import handlers
from workers.extensions.following import Following
from workers.fetching.fetch import Fetching
from workers.fetching.pull import Pulling
from workers.fetching.reconcile import Reconciling
from workers.process import visit
from workers.retention.prune import Tools as Pruning
from workers.rounds import Rounds
from workers.sending.send import Pace, Sending
from workers.sweep import Sweep

log = logging.getLogger(__name__)

REDIS_RETRY_S = 0.25
LONGEST_REDIS_RETRY_S = 2.0
STOP_WITHIN_S = 8.0
_CANCEL_AGAIN_S = 0.05


async def work_until(
    stop: asyncio.Event,
    crew: Crew,
    redis_url: str,
    slots: int,
    keys: KeyRing | None = None,
    reconcile_every_s: float = 0.0,
    pace: Pace | None = None,
    pull_every_s: Mapping[What, float] | None = None,
    pruning: Pruning | None = None,
    checkpoint_every_s: float = 0.0,
) -> None:
    """
    Drain lanes until `stop` is set; then finish the visits that have begun.

    `keys` open the API keys that objects are fetched with; without them none is. `pace` is that of
    what is sent. `pull_every_s` says how often providers are asked for their events, and for
    their objects. `pruning` is what pruning needs; without it this process does none.
    """

    async def visit_lane(lane: int) -> Any:
        return await visit(crew, lane)

    rounds = Rounds(visit_lane, slots, crew.surroundings.source_ids_by_lane, crew.extended)
    visiting = asyncio.create_task(rounds.run(), name="rounds")
    # An answer's lane is drained here: no wake-up has to go through Redis.
    fetching = Fetching(crew, keys, rounds.wake)
    reconciling = Reconciling(crew, fetching.targets, rounds.wake, reconcile_every_s)
    pulling = Pulling(crew, fetching.targets, rounds.wake, dict(pull_every_s or {}))
    others = [
        asyncio.create_task(Sweep(crew, rounds, pruning=pruning).run(), name="sweep"),
        asyncio.create_task(fetching.run(), name="fetching"),
        asyncio.create_task(reconciling.run(), name="reconciling"),
        asyncio.create_task(pulling.run(), name="pulling"),
        asyncio.create_task(Sending(crew, handlers(), pace).run(), name="sending"),
        asyncio.create_task(
            Checkpointing(crew.db, keys, checkpoint_every_s).run(), name="checkpointing"
        ),
    ]
    if handlers():
        following = Following(crew, rounds.wake)
        others.append(asyncio.create_task(following.run(), name="following"))
    if redis_url:
        others.append(asyncio.create_task(_listen(redis_url, rounds, crew), name="arq"))
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({visiting, *others, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        rounds.close()
        stopping.cancel()
        for task in others:
            task.cancel()
        await asyncio.wait({*others, stopping}, timeout=STOP_WITHIN_S)
        # What cannot finish in time rolls back, and is found again.
        await asyncio.wait({visiting}, timeout=STOP_WITHIN_S)
        visiting.cancel()
        await asyncio.gather(visiting, return_exceptions=True)
    for task in (visiting, *others):
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _listen(redis_url: str, rounds: Rounds, crew: Crew) -> None:
    """Run arq until cancelled, and start it again whenever Redis lets it down."""

    async def drain(ctx: dict[Any, Any], lanes: list[int]) -> None:
        rounds.wake(lanes)

    async def note_use(ctx: dict[Any, Any], token: str, at: int) -> None:
        try:
            async with crew.db.connection() as conn:
                await tokens.note_use(conn, UUID(token), at)
        except Exception as error:  # a hint, which may be lost
            log.info("a use of a token was not noted", extra={"error": repr(error)})

    failures = 0
    while True:
        pool = redis_pool(redis_url, socket_timeout_s=1.0)
        worker = Worker(
            functions=[
                func(drain, name=DRAIN, keep_result=0),
                func(note_use, name=NOTE_USE, keep_result=0),
            ],
            redis_pool=pool,
            queue_name=QUEUE_NAME,
            handle_signals=False,
            poll_delay=0.02,
            max_jobs=20,
            queue_read_limit=1000,
            job_timeout=5,
            keep_result=0,
            max_tries=1000,
            health_check_interval=10,
            health_check_key=f"{QUEUE_NAME}:{socket.gethostname()}:{os.getpid()}",
            log_results=False,
            job_serializer=serialize_job,
            job_deserializer=deserialize_job,
        )
        serving = asyncio.ensure_future(worker.main())
        try:
            await asyncio.wait({serving})
            serving.result()
            failures = 0
        except (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            if failures == 0:
                log.warning(
                    "redis is not answering, the sweep drains", extra={"error": repr(error)}
                )
            failures += 1
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a wake-up could not be read", extra={"error": repr(error)})
        finally:
            await _closed(worker, serving)
        await asyncio.sleep(min(REDIS_RETRY_S * 2 ** min(failures, 5), LONGEST_REDIS_RETRY_S))


async def _closed(worker: Worker, serving: asyncio.Future[None]) -> None:
    """
    End what arq is at and close it, in a second at most.

    In tasks of their own: arq may answer with its own jobs' cancellation, which must not be taken
    for ours, nor ours for arq's: either would keep this process from stopping.
    """

    def cancel() -> None:
        # Again and again: redis wraps what it writes in `asyncio.wait_for`, which below Python 3.12
        # loses a cancellation that comes just as that is done. And by the clock, not in a task that
        # may be cancelled first: an arq that is left alone would take jobs for ever.
        if not serving.done():
            serving.cancel()
            loop.call_later(_CANCEL_AGAIN_S, cancel)

    async def close() -> None:
        await asyncio.wait({serving})
        await worker.close()

    loop = asyncio.get_running_loop()
    cancel()
    closing = asyncio.ensure_future(close())
    for task in (serving, closing):
        # Either may fail after a stop has taken us away from it; asked by nobody, it complains.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.wait({closing}, timeout=1)
    finally:
        closing.cancel()


async def _work(stop: asyncio.Event, crew: Crew, settings: Settings, endpoints: Endpoints) -> None:
    try:
        keys = KeyRing.parse(endpoints.secret_key)
    except SealingError as error:
        log.warning("without a key nothing is fetched", extra={"error": str(error)})
        keys = None
    await work_until(
        stop,
        crew,
        endpoints.redis,
        settings.worker_slots,
        keys,
        settings.reconcile_every_s,
        Pace.of(settings.send_timeout_s),
        {"events": settings.pull_every_s, "objects": settings.compare_every_s},
        Pruning(settings, Artifacts(settings.artifacts_url, settings.home)),
        settings.checkpoint_every_s,
    )


def main() -> int:
    """`python -m workers.fleet`."""
    return run_process(_work, "worker", handlers)


if __name__ == "__main__":
    sys.exit(main())
