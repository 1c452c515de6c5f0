"""What a fetch comes to: an answer, or a code that says why there is none."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from shared.db import storable
from shared.domain.events import FETCHED, OWN_PREFIX, Identity, is_storable, lane_number
from shared.store.fetches import AnswerEvent, Claim

#: There is an answer.
ANSWERED = "answered"
#: The provider is in order, and says that this object cannot be had, or not with this key.
NOT_FOUND = "not_found"
FORBIDDEN = "forbidden"
MODE_MISMATCH = "mode_mismatch"
REFUSED = "refused"
UNFIT = "unfit"  # it came, and this version cannot read it
#: Nobody is to be asked for a while.
UNAUTHORIZED = "unauthorized"
RATE_LIMITED = "rate_limited"
#: The provider, or the way to it, is not in order.
SERVER_ERROR = "server_error"
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"
UNREADABLE = "unreadable"
NO_DATE = "no_date"

#: These say nothing against the provider, and nothing about any other object.
ABOUT_THE_OBJECT = frozenset({NOT_FOUND, FORBIDDEN, MODE_MISMATCH, REFUSED, UNFIT})

_LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """
    An object as the provider had it, with every list of it whole; None: it is not there.

    It contains all that happened up to `floor`, and nothing from after `ceiling`; both in unix
    seconds of the provider's clock. `requests` is how many it took. That nothing is there is
    believed only of a key that is proven: see `workers.fetching.asking.is_ours`.
    """

    result: Mapping[str, Any] | None
    floor: int
    ceiling: int
    requests: int
    headers: list[tuple[str, str]] = field(default_factory=list)


class FetchFailed(Exception):
    """
    There is no answer. `code` is one of the words above, `retry_after_s` what the provider asks
    for; the text is fit to be stored and shown.
    """

    def __init__(self, code: str, error: str, retry_after_s: float | None = None) -> None:
        super().__init__(storable(error, _LONGEST_ERROR))
        self.code = code
        self.retry_after_s = retry_after_s


def event_of(
    answer: Answer,
    claim: Claim,
    *,
    source_id: int,
    lanes: tuple[int, ...],
    tracking_id: UUID,
    trace_context: str,
) -> AnswerEvent:
    """
    The answer as an event of its source, in the lane of the object's own events.

    Raises:
        FetchFailed: it holds what no stored event may: NaN, or half a character.
    """
    event_id = f"{OWN_PREFIX}fetch/{claim.number}"
    content = {
        "object": FETCHED,
        "kind": claim.kind,
        "id": claim.object_id,
        "number": claim.number,
        "floor": answer.floor,
        "ceiling": answer.ceiling,
        "result": answer.result,
    }
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        body = text.encode()
    except ValueError as error:
        raise FetchFailed(UNREADABLE, f"the answer cannot be kept: {error}") from None
    subject = f"{claim.kind}/{claim.object_id}"
    subject = subject if is_storable(subject) else event_id
    return AnswerEvent(
        tracking_id=tracking_id,
        source_id=source_id,
        lane=lanes[lane_number(subject)],
        identity=Identity(
            event_id=event_id,
            event_type=FETCHED,
            subject=subject,
            occurred_at=datetime.fromtimestamp(answer.ceiling, UTC),
            account=claim.account,
            livemode=claim.livemode,
        ),
        headers=json.dumps(answer.headers).encode(),
        body=body,
        body_sha=sha256(body).digest(),
        trace_context=trace_context,
    )
