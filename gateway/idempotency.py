"""What makes a repeated request the same one: its key, and who is at it now."""

import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from gateway.envelope import Refusal

#: A structured field's text (RFC 8941) as well as the bare one; with something before it, it fits
#: an event's id.
_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,200})"?')


def read_key(text: str) -> str:
    """
    The key in `Idempotency-Key`.

    Raises:
        Refusal: it is none.
    """
    found = _KEY.fullmatch(text)
    if found is None:
        raise Refusal(
            "malformed_request", "Idempotency-Key: 1 to 200 visible ASCII characters, no quotes"
        )
    return found[1]


class Claims:
    """The keys of verified requests that this process has not answered yet."""

    def __init__(self) -> None:
        self._held: set[Hashable] = set()

    @contextmanager
    def held(self, key: Hashable) -> Iterator[None]:
        """
        Hold a key.

        Raises:
            Refusal: another request does.
        """
        if key in self._held:
            raise Refusal("key_in_flight", "A request with this Idempotency-Key is under way.")
        self._held.add(key)
        try:
            yield
        finally:
            self._held.discard(key)
