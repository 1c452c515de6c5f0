"""
The story: nine scenes, and what each of them has to prove.

Every expectation compares what HTTP answered or what lies in the database with what has to be
there. A scene whose events are not settled ends the story, since the next one builds upon it.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from workers.demo import proof
from workers.demo.bodies import Subscription
from workers.demo.play import NEW, Play, StoryEnded, word_of
from workers.demo.results import push_results
from workers.demo.setting import FEATURES, SOURCE
from workers.demo.stage import Scene
from workers.demo.watching import LOOK_EVERY_S, held
from workers.trail import ChainWalk

#: Once somebody waits. A worker waits for 2 s with a batch and for 2 s with one event alone: only
#: a lock that outlasts both shows that giving up is charged to nobody.
LOCKED_S = 4.4
#: Where nobody comes to wait.
LOCKED_AT_MOST_S = 10.0
DELIVERIES = 5


async def subscribe(play: Play, scene: Scene) -> None:
    """A customer, a subscription, access."""
    customer = play.customer("acme")
    before = await play.watcher.features(customer.tenant)
    play.acme = Subscription(customer, "basic", "active", names_tenant=False)
    answers = await play.apply(scene, customer.created(), play.acme.created())
    scene.expect("both were accepted as new", [word_of(one) for one in answers], [NEW, NEW])
    scene.expect("nobody had heard of the tenant before", before, None)
    await play.expect_access(
        scene, "it has what plan demo-basic gives, and nothing else", customer.tenant, "basic"
    )


async def repeat(play: Play, scene: Scene) -> None:
    """One event, five deliveries at the same moment."""
    play.script.later()
    event = play.acme.becomes(plan="pro")
    answers = await asyncio.gather(
        *(
            play.deliver(scene, event, pending_webhooks=DELIVERIES - number)
            for number in range(DELIVERIES)
        )
    )
    await play.settle(scene, event)
    trace = await play.watcher.trace(event)
    words = Counter(word_of(answer) for answer in answers)
    scene.expect(
        "one was new, the others duplicates of it",
        (words[NEW], words[200, "duplicate"], len({answer.tracking_id for answer in answers})),
        (1, DELIVERIES - 1, 1),
        "one tracking id",
    )
    scene.expect(
        "one inbox row, four redeliveries, no conflict",
        (trace.ledger, trace.inbox, trace.redeliveries, trace.conflicts),
        (1, 1, DELIVERIES - 1, 0),
    )
    scene.expect(
        "one effect: observed once, settled once",
        (trace.observations, trace.settlements, trace.failures),
        (1, 1, 0),
    )
    scene.expect("exactly one audit record of step 0", trace.records, 1)
    scene.expect(
        "one more for each changed feature",
        trace.changes,
        len(FEATURES["pro"]),
        f"{trace.changes} changes",
    )
    await play.expect_access(
        scene, "it has what plan demo-pro gives", play.acme.customer.tenant, "pro"
    )


async def disorder(play: Play, scene: Scene) -> None:
    """A life of one second, delivered in an order in which last-write-wins goes wrong."""
    play.script.later()
    play.globex = Subscription(play.customer("globex"), "basic", "incomplete", names_tenant=True)
    life = [
        play.globex.created(),
        play.globex.becomes(status="active"),
        play.globex.becomes(plan="pro"),
        play.globex.becomes(plan="basic"),
        play.globex.becomes(plan="pro"),
    ]
    # The largest id must not give the answer away either.
    ids = sorted(event.id for event in life)
    order = [4, 2, 0, 1, 3]
    arriving = [
        replace(life[place], id=number, note=f"{place + 1}. {life[place].note}")
        for place, number in zip(order, ids, strict=True)
    ]
    await play.apply(scene, *arriving)
    traces = await play.watcher.traces(arriving)
    scene.expect(
        "all five are kept, of one and the same second",
        (sum(trace.observations for trace in traces.values()), len({e.created for e in arriving})),
        (5, 1),
    )
    scene.expect(
        "nothing is left undecided", await play.watcher.is_ambiguous(play.globex.id), False
    )
    await play.expect_access(
        scene,
        "it ends as the life ended, in demo-pro; the last to arrive said demo-basic",
        play.globex.customer.tenant,
        "pro",
    )


async def forge(play: Play, scene: Scene) -> None:
    """A forged event, then the real one under the same id."""
    play.script.later()
    event = play.acme.becomes(plan="basic")
    mallory = play.script.tenant("mallory")
    forged = replace(
        event,
        content={**event.content, "status": "active", "metadata": {"tenant_id": mallory}},
        note="forged",
    )
    row = scene.send(forged.type, forged.note)
    row.awaits_outcome = False
    answer = await play.sender.forge(forged, f"whsec_{secrets.token_urlsafe(24)}")
    row.answered(answer.status, answer.word, ok=False)
    refused = await play.watcher.trace(forged)
    scene.expect("it is refused", word_of(answer), (401, "wrong_signature"))
    scene.expect("and leaves no row anywhere", refused.is_empty, True)
    (accepted,) = await play.apply(scene, event)
    trace = await play.watcher.trace(event)
    scene.expect(
        "the real event of the same id is taken as new",
        (word_of(accepted), trace.inbox, trace.redeliveries, trace.records),
        (NEW, 1, 0, 1),
    )
    scene.expect("the forger has nothing", await play.watcher.features(mallory), None)
    await play.expect_access(scene, "the real change is made", play.acme.customer.tenant, "basic")


async def wait_for_lock(play: Play, scene: Scene) -> None:
    """An event whose customer somebody else holds, and a neighbour's that passes it by."""
    play.script.later()
    event = replace(play.acme.becomes(plan="pro"), note="acme → pro")
    neighbour = replace(play.globex.becomes(plan="basic"), note="globex → basic")
    tenant, customer = play.acme.customer.tenant, play.acme.customer.id
    waited_since_s: float | None = None
    async with held(play.url, SOURCE, play.script.livemode, customer) as hold:
        answer = await play.deliver(scene, event)
        await play.deliver(scene, neighbour)
        while hold.lasts_s < _release_at_s(waited_since_s):
            scene.waits = f"acme's row is locked by somebody else, {hold.lasts_s:.1f} s"
            await hold.stay()
            if waited_since_s is None and await hold.is_waited_for():
                waited_since_s = hold.lasts_s
            passing = (await play.watcher.progress([neighbour])).get(neighbour.id)
            if passing is not None and passing.outcome is not None:
                scene.rows[-1].outcome = passing.outcome
            await asyncio.sleep(LOOK_EVERY_S)
        during = await play.watcher.trace(event)
        before = await play.watcher.features(tenant)
        lasted_s = hold.lasts_s
        scene.waits = "the row is free"
    released_s = time.monotonic()
    await play.settle(scene, event, neighbour)
    recovered_s = time.monotonic() - released_s
    scene.waits = None
    trace = await play.watcher.trace(event)
    scene.expect(
        "acme's event was answered at once", word_of(answer), NEW, f"{answer.took_s * 1000:.0f} ms"
    )
    scene.expect("a worker was seen waiting for the lock", waited_since_s is not None, True)
    scene.expect(
        "nothing was changed while the lock was held",
        (during.waiting, during.settlements, before),
        (1, 0, dict(FEATURES["basic"])),
        f"{lasted_s:.1f} s",
    )
    scene.expect(
        "it recovered by itself, and nobody was charged",
        (trace.settlements, trace.failures, trace.records),
        (1, 0, 1),
        f"{recovered_s:.1f} s later",
    )
    await play.expect_access(scene, "it has what plan demo-pro gives", tenant, "pro")


async def park(play: Play, scene: Scene) -> None:
    """A subscription that nobody owns, and then the link."""
    play.script.later()
    customer = play.customer("initech")
    play.initech = Subscription(customer, "basic", "active", names_tenant=False)
    await play.apply(scene, play.initech.created())
    parked = await play.watcher.parked(play.initech.id)
    scene.expect(
        "`sluice parked list` says what it waits for",
        (parked.needs, parked.customer) if parked is not None else None,
        ("needs:link", customer.id),
        "needs:link",
    )
    scene.expect(
        "it gives nobody anything meanwhile", await play.watcher.features(customer.tenant), None
    )
    play.script.later()
    link = customer.linked()
    await play.apply(scene, link)
    trace = await play.watcher.trace(link)
    await play.expect_access(
        scene, "the link alone gives access, at once", customer.tenant, "basic"
    )
    scene.expect(
        "in the link's own transaction, audited as its effect",
        (trace.records, trace.changes),
        (1, len(FEATURES["basic"])),
    )
    left = await play.watcher.parked(play.initech.id)
    scene.expect("nothing is parked any more", left.needs if left is not None else None, None)


async def cancel(play: Play, scene: Scene) -> None:
    """Every subscription ends; the demo leaves nobody with access."""
    play.script.later()
    everyone = (play.acme, play.globex, play.initech)
    before = [await play.watcher.features(one.customer.tenant) for one in everyone]
    names = [one.customer.tenant.split("-")[1] for one in everyone]
    await play.apply(scene, *(one.ended(name) for one, name in zip(everyone, names, strict=True)))
    scene.expect("each had something to lose", all(before), True)
    for one, name in zip(everyone, names, strict=True):
        await play.expect_access(scene, f"{name} has nothing left", one.customer.tenant, None)


async def verify(play: Play, scene: Scene) -> None:
    """Whatever happened has its record, and the records are whole."""
    traces = await play.watcher.traces(play.received)
    scene.expect(
        "every event has exactly one audit record of step 0",
        [trace.records for trace in traces.values()],
        [1] * len(play.received),
        f"{len(play.received)} events",
    )
    progress = await play.watcher.progress(play.received)
    scene.expect(
        "no event is unfinished, dead or charged",
        (
            sum(one.outcome is None for one in progress.values()),
            sum(one.outcome == "dead" for one in progress.values()),
            sum(trace.failures for trace in traces.values()),
        ),
        (0, 0, 0),
    )
    found = await proof.received_bytes(play.conn, play.tenants[0])
    last = [event for event in play.received if event.content["id"] == play.acme.id][-1]
    scene.expect(
        "acme's last record leads back to the bytes that were signed",
        found == last.body(),
        True,
    )
    verdict = await proof.verify_trail(play.conn, play.tenants)
    scene.expect(
        "the audit trail verifies",
        [f"{finding.kind} in {finding.chain}" for finding in verdict.findings[:3]],
        [],
        str(verdict),
    )
    chain = await proof.read_chain(play.conn, f"tenant:{play.tenants[0]}")
    walk = proof.walk_through(ChainWalk(), proof.forge_record(chain))
    scene.expect(
        "in a copy with one altered record, the alteration is found",
        [finding.kind for finding in walk],
        ["altered"],
        f"{len(chain)} records",
    )


SCENES: tuple[tuple[str, str, str, Callable[[Play, Scene], Awaitable[None]]], ...] = (
    (
        "access",
        "A customer subscribes",
        "Two signed events, and the tenant may use what it pays for.",
        subscribe,
    ),
    (
        "duplicates",
        "The same event, five times at once",
        "Providers deliver at least once. The effect happens once.",
        repeat,
    ),
    (
        "order",
        "A life of one second, in the wrong order",
        "Stripe's clock ticks in seconds, and updates overtake the creation.",
        disorder,
    ),
    (
        "forgery",
        "A forged event, then the real one with the same id",
        "Only what is verified may claim an id.",
        forge,
    ),
    (
        "recovery",
        "Somebody holds the customer's row",
        "The event waits, its neighbours do not, and no attempt is charged.",
        wait_for_lock,
    ),
    (
        "parked",
        "A subscription that belongs to nobody yet",
        "It is parked and listed until a link says whose it is.",
        park,
    ),
    (
        "results",
        "A partner pushes results",
        "Signed rows come in; their tenant reads what became of them.",
        push_results,
    ),
    ("cancellation", "Everybody cancels", "Access ends with the subscription.", cancel),
    (
        "audit",
        "The audit trail",
        "From received byte to changed entitlement, hash-chained.",
        verify,
    ),
)


async def perform(play: Play) -> None:
    """Play all scenes, as far as the story holds; the checks are the stage's."""
    for key, title, about, scene_of in SCENES:
        with play.stage.scene(key, title, about) as scene:
            try:
                await scene_of(play, scene)
            except StoryEnded:
                return
            await play.stage.rest()


def _release_at_s(waited_since_s: float | None) -> float:
    return LOCKED_AT_MOST_S if waited_since_s is None else waited_since_s + LOCKED_S
