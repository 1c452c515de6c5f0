"""What the scenes share: who plays, how an event is told and waited for, what is expected of it."""

import time
from dataclasses import dataclass, field

from shared.db import Conn
from workers.demo.bodies import Customer, Event, Script, Subscription
from workers.demo.pushing import Application, Partner
from workers.demo.sending import Answer, Sender
from workers.demo.setting import FEATURES
from workers.demo.stage import Row, Scene, Stage
from workers.demo.watching import Watcher

NEW = (200, "new")


class StoryEnded(Exception):
    """An event was refused or not settled: what comes next would prove nothing."""


@dataclass
class Play:
    """Everything the scenes share. `url` opens a connection as operator."""

    conn: Conn
    url: str
    stage: Stage
    script: Script
    sender: Sender
    watcher: Watcher
    partner: Partner
    application: Application
    acme: Subscription = field(init=False)
    globex: Subscription = field(init=False)
    initech: Subscription = field(init=False)
    received: list[Event] = field(default_factory=list)
    effects_s: list[float] = field(default_factory=list)
    _rows: dict[str, Row] = field(default_factory=dict)

    @property
    def tenants(self) -> list[str]:
        """The tenants of the story, the main one first."""
        return [self.script.tenant(name) for name in ("acme", "globex", "initech")]

    def customer(self, name: str) -> Customer:
        """A new customer of a tenant of this run."""
        return Customer(self.script, self.script.tenant(name), self.script.customer_id())

    async def deliver(self, scene: Scene, event: Event, *, pending_webhooks: int = 1) -> Answer:
        """
        Deliver an event, and show it; what becomes of a redelivery is its event's affair.

        Raises:
            StoryEnded: it was not taken, and a check says so.
        """
        row = scene.send(event.type, event.note)
        answer = await self.sender.deliver(event, pending_webhooks=pending_webhooks)
        row.answered(answer.status, answer.word, ok=answer.status == 200)
        if answer.status != 200:
            scene.expect(f"{event.type} is accepted", word_of(answer), NEW)
            raise StoryEnded
        self.watcher.note(answer)
        row.awaits_outcome = answer.word == "new"
        if row.awaits_outcome:
            self.received.append(event)
            self._rows[event.id] = row
        return answer

    async def apply(self, scene: Scene, *events: Event) -> list[Answer]:
        """Deliver events one after another, and wait until all are settled."""
        answers = [await self.deliver(scene, event) for event in events]
        await self.settle(scene, *events)
        return answers

    async def settle(self, scene: Scene, *events: Event) -> None:
        """
        Wait until the events are settled, and show as what.

        Raises:
            StoryEnded: they are not, and a check says so.
        """
        begun_s = time.monotonic()

        def seen(number: str, outcome: str) -> None:
            self.effects_s.append(time.monotonic() - begun_s)
            if number in self._rows:
                self._rows[number].outcome = outcome

        left = await self.watcher.settled(events, seen)
        if left:
            name = "every event is settled in time; is a worker running? (sluice worker)"
            scene.expect(name, f"{len(left)} unfinished", "0 unfinished")
            raise StoryEnded

    async def expect_access(self, scene: Scene, name: str, tenant: str, plan: str | None) -> None:
        """Compare what the tenant may use now with what the plan gives (None: nothing at all)."""
        features = await self.watcher.features(tenant)
        scene.entitle(tenant, features)
        scene.expect(name, features, dict(FEATURES[plan]) if plan is not None else {})


def word_of(answer: Answer) -> tuple[int, str]:
    """What an answer amounts to: its status, and "new", "duplicate" or the error's code."""
    return answer.status, answer.word
