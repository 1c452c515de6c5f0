"""Clerk's events as Svix delivers them, and lives of an instance beside what is true at the end."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from shared.domain.events import Headers

#: 2026-11-10T00:00:00Z
NOW_MS = 1_794_268_800_000
DAY_MS = 86_400_000

PLANS = {
    "pro": {"products": ["clerk:cplan_pro"], "features": {"seats": 10, "sso": True}, "graceS": 0},
    "basic": {"products": ["clerk:cplan_basic"], "features": {"seats": 1}, "graceS": 0},
}


@dataclass(frozen=True)
class Sent:
    """A message: its body, and the headers that Svix sends with it."""

    body: bytes
    headers: Headers


def event(kind: str, data: dict[str, Any], at_ms: int, message: str | None = None) -> Sent:
    content = {
        "data": data, "event_attributes": {"http_request": {"client_ip": "", "user_agent": ""}},
        "instance_id": "ins_1", "object": "event", "timestamp": at_ms, "type": kind,
    }  # fmt: skip
    body = json.dumps(content, separators=(",", ":")).encode()
    name = message or f"msg_{random.Random(body).randrange(10**24):024d}"
    return Sent(body, (("svix-id", name),))


def deleted(kind: str, object_id: str) -> dict[str, Any]:
    return {"object": kind, "id": object_id, "deleted": True}


def user(user_id: str, at_ms: int = NOW_MS) -> dict[str, Any]:
    return {"object": "user", "id": user_id, "first_name": "Jane", "created_at": at_ms,
            "updated_at": at_ms, "email_addresses": []}  # fmt: skip


def organization(organization_id: str, at_ms: int = NOW_MS) -> dict[str, Any]:
    return {"object": "organization", "id": organization_id, "name": "Acme Corp",
            "slug": "acme-corp", "created_at": at_ms, "updated_at": at_ms}  # fmt: skip


def membership(
    organization_id: str,
    user_id: str,
    role: str = "org:member",
    at_ms: int = NOW_MS,
    membership_id: str | None = None,
) -> dict[str, Any]:
    return {
        "object": "organization_membership",
        "id": membership_id or f"orgmem_{organization_id}_{user_id}",
        "role": role,
        "organization": organization(organization_id),
        "public_user_data": {"user_id": user_id, "identifier": "jane@example.org"},
        "created_at": NOW_MS,
        "updated_at": at_ms,
    }


def item(
    item_id: str,
    payer: str,
    status: str = "active",
    at_ms: int = NOW_MS,
    *,
    plan: str = "cplan_pro",
    period_end: int | None = NOW_MS + 30 * DAY_MS,
    amount: int = 2000,
    **more: Any,
) -> dict[str, Any]:
    is_organization = payer.startswith("org_")
    return {
        "object": "commerce_subscription_item", "id": item_id, "status": status,
        "is_free_trial": False, "created_at": NOW_MS, "updated_at": at_ms,
        "period_start": NOW_MS, "period_end": period_end, "interval": "month", "plan_id": plan,
        "plan": {"id": plan, "slug": plan.removeprefix("cplan_"), "name": plan,
                 "is_recurring": True, "amount": amount, "currency": "USD"},
        "payer": {"object": "commerce_payer", "id": f"cpayer_{payer}", "email": "jane@example.org",
                  "user_id": "" if is_organization else payer,
                  "organization_id": payer if is_organization else ""},
        "subscription_id": f"csub_{payer}", **more,
    }  # fmt: skip


# Lives --------------------------------------------------------------------------------------------

_STATUSES = ("incomplete", "upcoming", "active", "past_due", "canceled", "ended", "abandoned")
_ROLES = ("org:member", "org:admin", "org:billing")


@dataclass
class Life:
    """
    An instance from its beginning to now, as it truly was: a person, an organization, what that
    one pays for, and who is in it. `sent` holds one list for each object, in the order of its
    changes; the last of each list says what became of the object.
    """

    sent: dict[str, list[Sent]] = field(default_factory=dict)
    members: dict[str, tuple[str, str]] = field(default_factory=dict)  # by id: who, as what
    items: dict[str, dict[str, Any]] = field(default_factory=dict)  # as they were last
    gone: set[str] = field(default_factory=set)  # users and organizations

    def shown(self, organization_id: str) -> set[tuple[str, str]]:
        """Who is a member, by the truth."""
        if organization_id in self.gone:
            return set()
        return {
            (who, role)
            for name, (who, role) in self.members.items()
            if who not in self.gone and name.startswith(f"orgmem_{organization_id}_")
        }

    def features(self) -> dict[str, Any]:
        """What the payers may use, by the truth: the most of what any item gives."""
        given: dict[str, Any] = {}
        for content in self.items.values():
            entitled = content["status"] == "active" or (
                content["status"] == "canceled" and content["period_end"] is not None
            )
            if entitled and content["plan_id"] == "cplan_pro":
                given |= {"seats": 10, "sso": True}
            elif entitled and content["plan_id"] == "cplan_basic":
                given.setdefault("seats", 1)
        return dict(sorted(given.items()))


def live(rng: random.Random, name: str) -> Life:
    """One life of organization org_{name}, its two users and up to three items."""
    life = Life()
    organization_id = f"org_{name}"
    users = [f"user_{name}_{number}" for number in range(2)]
    for user_id in users:
        _of(life, rng, "user", user_id, user)
    _of(life, rng, "organization", organization_id, organization)
    for number, user_id in enumerate(users):
        # Who leaves and comes again has another membership.
        for turn in range(rng.randint(0, 2)):
            _member(life, rng, f"orgmem_{organization_id}_{number}_{turn}", user_id)
            if f"orgmem_{organization_id}_{number}_{turn}" in life.members:
                break
    for number in range(rng.randint(1, 3)):
        _item(life, rng, f"csub_item_{name}_{number}", organization_id)
    return life


def told(rng: random.Random, life: Life) -> list[Sent]:
    """In any order, any of it more than once, and of each object perhaps only the last."""
    events: list[Sent] = []
    for sent in life.sent.values():
        kept = [one for one in sent[:-1] if rng.random() < 0.7]
        events += [*kept, sent[-1]]
    events += [one for one in events if rng.random() < 0.3]
    rng.shuffle(events)
    return events


def _of(life: Life, rng: random.Random, kind: str, object_id: str, make: Any) -> None:
    at = NOW_MS - rng.randrange(DAY_MS)
    sent = [event(f"{kind}.created", make(object_id, at), at + rng.randrange(50))]
    for _ in range(rng.randint(0, 2)):
        at += 1 + rng.randrange(1000)
        sent.append(event(f"{kind}.updated", make(object_id, at), at + rng.randrange(50)))
    if rng.random() < 0.25:
        life.gone.add(object_id)
        # Clerk still has an update of after that on its way, and its clocks are several.
        if rng.random() < 0.5:
            late = at + 10_000 + rng.randrange(1000)
            sent.append(event(f"{kind}.updated", make(object_id, late), late))
        sent.append(event(f"{kind}.deleted", deleted(kind, object_id), at + 5000))
    life.sent[object_id] = sent


def _member(life: Life, rng: random.Random, name: str, user_id: str) -> None:
    organization_id = name.removeprefix("orgmem_").rsplit("_", 2)[0]
    at = NOW_MS - rng.randrange(DAY_MS)
    role = rng.choice(_ROLES)
    content = membership(organization_id, user_id, role, at, name)
    sent = [event("organizationMembership.created", content, at)]
    for _ in range(rng.randint(0, 3)):
        at += 1 + rng.randrange(3)
        role = rng.choice(_ROLES)
        content = membership(organization_id, user_id, role, at, name)
        sent.append(event("organizationMembership.updated", content, at + rng.randrange(2)))
    if rng.random() < 0.35:
        sent.append(event("organizationMembership.deleted", content, at + rng.randrange(5000)))
    else:
        life.members[name] = user_id, role
    life.sent[name] = sent


def _item(life: Life, rng: random.Random, name: str, payer: str) -> None:
    """What it becomes is told with the time of the change; two changes may have one millisecond."""
    updated_at = made_at = NOW_MS - rng.randrange(DAY_MS)
    kinds = {"past_due": "pastDue"}
    sent: list[Sent] = []
    status, plan = rng.choice(("incomplete", "upcoming")), "cplan_basic"
    content: dict[str, Any] = {}
    for turn in range(rng.randint(1, 6)):
        if turn:
            status = rng.choice([one for one in _STATUSES if one != status])
            plan = rng.choice(("cplan_basic", "cplan_pro"))
            made_at += 1 + rng.randrange(400)
            if rng.random() < 0.7 or made_at - updated_at > 900:
                made_at = updated_at = made_at + rng.randrange(5000)
        end = NOW_MS + 3650 * DAY_MS if rng.random() < 0.8 else None
        content = item(name, payer, status, updated_at, plan=plan, period_end=end)
        kind = "created" if not turn else kinds.get(status, status)
        sent.append(event(f"subscriptionItem.{kind}", content, made_at))
    life.items[name] = content
    life.sent[name] = sent
