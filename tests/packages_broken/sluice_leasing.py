"""
An installed package with a bug, for tests: as long as the file that `LEASING_BUG` names is there,
no event can be translated. Who deploys the mended version takes the file away.
"""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from shared.plugin import (
    SUBSCRIPTION_KIND,
    Arrival,
    Command,
    Headers,
    Identity,
    Item,
    ObjectState,
    Observe,
    PayloadError,
    Provider,
    Standing,
)


class Leasing(Provider):
    """Bodies are {"id", "lease", "tenant", "version", "seats", "active"}; nobody signs them."""

    name = "leasing"
    secret_hint = "any"

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        return 0

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        return ()

    def identify(self, headers: Headers, body: bytes) -> Identity:
        try:
            read = json.loads(body)
            return Identity(read["id"], "lease.changed", f"lease/{read['lease']}")
        except (ValueError, KeyError, TypeError):
            raise PayloadError("not read") from None

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        read = json.loads(arrival.body)
        if Path(os.environ["LEASING_BUG"]).exists():
            raise KeyError("places")  # what the mended version reads as "seats"
        items = (Item(refs=("seat",), quantity=read["seats"]),)
        status = Standing.ACTIVE if read["active"] else Standing.ENDED
        state = ObjectState(status=status, tenant=read["tenant"], items=items)
        return (Observe(SUBSCRIPTION_KIND, read["lease"], read["version"], "point", None, state),)
