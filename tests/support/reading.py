"""What the Stripe adapter reads of bodies, and what becomes of it in the fold."""

import copy
import itertools
import json
from collections.abc import Sequence
from typing import Any

from shared.domain.commands import Command, Observe
from shared.domain.events import Arrival, Identity
from shared.domain.register import Observation, Register, fold
from shared.domain.states import digest_of
from shared.providers import providers
from tests.support import stripe_events as given
from tests.support.stripe_events import event

STRIPE = providers()["stripe"]

#: Where a type begins so, its snapshot is such an object.
_CONTENTS = {
    "account.application.": {"id": "ca_1", "object": "application", "name": "Sluice"},
    "account.": given.account(),
    "charge.dispute.": given.dispute(),
    "charge.refund.": given.refund(),
    "charge.": given.charge(),
    "checkout.session.": given.purchase(),
    "customer.subscription.": given.subscription(),
    "customer.": given.customer(),
    "entitlements.active_entitlement_summary.": given.summary(),
    "invoice_payment.": given.invoice_payment(),
    "invoice.": given.invoice(),
    "radar.early_fraud_warning.": given.warning(),
    "refund.": given.refund(),
}


def content_of(kind: str) -> dict[str, Any]:
    """An object of the kind that snapshots of this type carry."""
    found: dict[str, Any] = next(
        content for start, content in _CONTENTS.items() if kind.startswith(start)
    )
    return copy.deepcopy(found)


def observed(kind: str, content: dict[str, Any], **more: Any) -> Observe:
    """The one observation that a snapshot event of this type asks for."""
    return read(kind, event(kind, content, **more))


def asked_of(kind: str, body: bytes) -> Sequence[Command]:
    """The commands of an event of this type."""
    return STRIPE.translate(Arrival(Identity("evt_1", kind, "evt_1"), body))


def read(kind: str, body: bytes) -> Observe:
    (command,) = asked_of(kind, body)
    assert isinstance(command, Observe)
    return command


def observation(body: bytes) -> Observation:
    """What the worker keeps of a snapshot event."""
    head = json.loads(body)
    seen = read(head["type"], body)
    return Observation(
        head["id"],
        seen.version,
        seen.shape,
        digest_of(seen.before) if seen.before is not None else None,
        digest_of(seen.after),
        seen.after,
    )


def told_in_any_order(kind: str, bodies: Sequence[bytes]) -> Register:
    """The register of one object's events, the same whatever order and ids they come with."""
    registers = [
        fold("stripe", kind, [observation(named(body, f"evt_{n}")) for n, body in enumerate(order)])
        for order in itertools.permutations(bodies)
    ]
    assert all(register == registers[0] for register in registers)
    return registers[0]


def named(body: bytes, event_id: str) -> bytes:
    return json.dumps({**json.loads(body), "id": event_id}).encode()
