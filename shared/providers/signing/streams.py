"""
Proof of a body that is too large to be held: its HMAC is made while it comes.

As strict as the verification of a whole body, which these are tested against. One difference: a
time out of the window is told at once, before any of the body is read.
"""

import hmac
from collections.abc import Sequence
from typing import Protocol

from shared.providers.base import SignatureError


class Verification(Protocol):
    """One request on its way to being proven. `is_proven`: its headers alone have done that."""

    is_proven: bool

    def update(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        ...

    def finish(self) -> int:
        """
        The index of the secret that proves the request, once all of its body came.

        Raises:
            SignatureError: none does.
        """
        ...


class Proven(Verification):
    """By a secret in the headers: the one of this index."""

    is_proven = True

    def __init__(self, index: int) -> None:
        self._index = index

    def update(self, chunk: bytes) -> None:
        """Nothing: the body is not signed."""

    def finish(self) -> int:
        """See `Verification.finish`."""
        return self._index


class Hmacs(Verification):
    """
    HMACs under `keys`, those of each secret, of what is `before` the body, the body, and what is
    `after` it.
    """

    is_proven = False

    def __init__(
        self,
        keys: Sequence[Sequence[bytes]],
        algorithm: str,
        before: bytes,
        after: bytes,
        signatures: Sequence[bytes],
    ) -> None:
        self._macs = [[hmac.new(key, before, algorithm) for key in of_one] for of_one in keys]
        self._after = after
        self._signatures = signatures

    def update(self, chunk: bytes) -> None:
        """See `Verification.update`. Other threads run meanwhile, where the chunk is large."""
        for of_one in self._macs:
            for mac in of_one:
                mac.update(chunk)

    def finish(self) -> int:
        """See `Verification.finish`. Every secret is tried, whichever matches."""
        self.update(self._after)
        same = [self._is_right(of_one) for of_one in self._macs]
        if not any(same):
            raise SignatureError("wrong_signature")
        return same.index(True)

    def _is_right(self, macs: list[hmac.HMAC]) -> bool:
        digests = [mac.digest() for mac in macs]
        same = [hmac.compare_digest(one, given) for one in digests for given in self._signatures]
        return any(same)
