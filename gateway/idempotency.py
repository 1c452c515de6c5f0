"""`Idempotency-Key`: the same key again is the same request, and gets the first answer again."""

import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager

from gateway.envelope import Refusal

_NAMES = ("idempotency-key", "x-idempotency-key")
#: With a token's id before it, it fits an event's id. The draft of the IETF (httpapi, -07) has it
#: in quotes; hardly anybody does.
_KEY = re.compile(r'"([\x21\x23-\x7e]{1,200})"|([\x21\x23-\x7e]{1,200})')

#: Of an answer that was given before.
REPLAYED = {"X-Idempotency-Replayed": "true"}


def read_key(headers: Mapping[str, str]) -> str | None:
    """
    The key of a request; None where it has none. `headers` are found by their name in lower case.

    Raises:
        Refusal: what it has is no key, or it has two.
    """
    given = {checked(headers[name]) for name in _NAMES if name in headers}
    if len(given) > 1:
        raise Refusal("malformed_request", "Idempotency-Key: there are two, and they differ")
    return given.pop() if given else None


def checked(key: str) -> str:
    """
    The key without its quotes.

    Raises:
        Refusal: it is none.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise Refusal(
            "malformed_request", "Idempotency-Key: 1 to 200 visible ASCII characters, no quotes"
        )
    return found[1] or found[2]


class Claims:
    """The keys of verified requests that this process has not answered yet."""

    def __init__(self) -> None:
        self._held: set[Hashable] = set()

    @property
    def is_any_held(self) -> bool:
        """Whether any request is under way just now."""
        return bool(self._held)

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
