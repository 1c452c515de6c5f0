"""
What a rotation comes to, before anybody writes it: where the new secret goes, and which it is.

Over the API and on the command line, in one way. Pure, but for what is handed in.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.domain.commands import RotateSecret
from shared.providers.base import ConfigurationError, Provider
from shared.sealing import KeyRing
from shared.store.integrations import SecretVersion

RANDOM_BYTES = 32

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
_DURATION = re.compile(r"(0|[1-9]\d{0,6})([smhdw]?)")
_LONGEST_OVERLAP_S = 90 * 86400


class UnclearRotation(Exception):
    """Which secret is to be replaced cannot be told, or it is being replaced already."""


class UnfitSecret(Exception):
    """It can be no secret of the source, or has to be given. The text never holds it."""


class Plaintext(Protocol):
    """A secret of the source that is known, opened: `shared.store.sources.Secret`."""

    @property
    def slot(self) -> int:
        """See there."""
        ...

    @property
    def version(self) -> int:
        """See there."""
        ...

    @property
    def plaintext(self) -> str:
        """See there."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where the new secret goes, and which one it replaces."""

    slot: int
    version: int
    old: SecretVersion


def overlap_s(text: str) -> int:
    """
    A duration in seconds.

    Raises:
        ValueError: it is none, or too long.
    """
    found = _DURATION.fullmatch(text)
    if found is None or (not found[2] and found[1] != "0"):
        raise ValueError('overlap: write "90s", "30m", "24h", "7d" or "0"')
    seconds = int(found[1]) * _UNITS_S.get(found[2], 0)
    if seconds > _LONGEST_OVERLAP_S:
        raise ValueError("overlap: 90 days at most")
    return seconds


def place_of(versions: Sequence[SecretVersion], newest: int, slot: int | None) -> Place:
    """
    Raises:
        UnclearRotation: see there.
    """
    active = [one for one in versions if one.retires_at is None]
    if slot is not None:
        active = [one for one in active if one.slot == slot]
        if not active:
            raise UnclearRotation(f"The source has no secret in slot {slot} that does not end.")
    if not active:
        raise UnclearRotation("The source has no secret that could be replaced.")
    if len(active) > 1:
        slots = ", ".join(str(one.slot) for one in sorted(active, key=lambda one: one.slot))
        raise UnclearRotation(f"The source has several secrets; say the slot of one: {slots}.")
    taken = {one.slot for one in versions}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    version = max([newest, *(one.version for one in versions)]) + 1
    return Place(free, version, active[0])


def secret_of(
    provider: Provider,
    known: Sequence[Plaintext],
    place: Place,
    given: str | None,
    random: bytes,
) -> str:
    """
    The new secret: the given one, or one that is made of `RANDOM_BYTES` random bytes.

    Raises:
        UnfitSecret: see there.
    """
    if given is None:
        old = (place.old.slot, place.old.version)
        replaced = next((o.plaintext for o in known if (o.slot, o.version) == old), "")
        made = provider.new_secret(random, replaced)
        if made is None:
            raise UnfitSecret(f"has to be said: the provider gives it ({provider.secret_hint})")
        return made
    if any(given == one.plaintext for one in known):
        raise UnfitSecret("is one that the source has already")
    try:
        provider.check_secret(given)
    except ConfigurationError as error:
        raise UnfitSecret(error.problem) from None
    return given


def order_of(
    source: str, place: Place, secret: str, keys: KeyRing, *, overlap_s: int
) -> RotateSecret:
    """The order to rotate, the new secret sealed for its place."""
    sealed = keys.seal(secret, source=source, slot=place.slot, version=place.version)
    return RotateSecret(
        source=source,
        slot=place.slot,
        version=place.version,
        key_id=sealed.key_id,
        nonce=sealed.nonce,
        ciphertext=sealed.ciphertext,
        overlap_s=overlap_s,
        replaces=place.old.slot,
        replaces_version=place.old.version,
    )
