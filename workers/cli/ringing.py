"""Waking the workers after an operator's commit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.settings import Endpoints


async def ring(endpoints: "Endpoints", lanes: Sequence[int]) -> None:
    """Only a hint: without Redis the sweep finds the work."""
    from shared.queue import Doorbell

    if not lanes:
        return
    bell = Doorbell(endpoints.redis)
    bell.ring(lanes)
    await bell.close()
