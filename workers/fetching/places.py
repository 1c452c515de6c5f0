"""
Where the asking for a provider's lists is: pure, and small enough for a row in Postgres.

A list is read page by page, of one account after the other; what was read last says what is next.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import msgspec
from msgspec.structs import replace

from workers.fetching.api import Listed

#: Again from before where the last one ended: what is made in one second may be listed later than
#: its neighbours, and "later than the last one" has lost events for others.
OVERLAP_S = 600
#: Younger events are left to their webhook: it comes within seconds, and within a minute or two
#: when either side restarts. What is found after that was not on its way.
YOUNG_S = 180


class _Place(msgspec.Struct, frozen=True):
    accounts: tuple[str, ...]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """As it lay in Postgres."""
        return msgspec.convert(content, cls)

    def at_rest(self) -> dict[str, Any]:
        """As it lies in Postgres."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class EventsPlace(_Place, frozen=True):
    """
    `since` and `until` are unix seconds, both included. `account` and `group` (of types that are
    asked for together) are indexes; `after` is the last event of the page before. `reached` is up
    to when, in the provider's own clock, all pages so far have told everything; None before them.
    """

    since: int
    until: int
    account: int = 0
    group: int = 0
    after: str | None = None
    reached: int | None = None

    def after_page(self, listed: Listed, groups: int) -> "EventsPlace | None":
        """What comes after this page; None where that was all."""
        reached = self.reached_by(listed)
        if listed.has_more:
            return replace(self, after=listed.items[-1]["id"], reached=reached)
        if self.group + 1 < groups:
            return replace(self, group=self.group + 1, after=None, reached=reached)
        return replace(self, reached=reached).next_account()

    def reached_by(self, listed: Listed) -> int:
        """
        `reached` with this page. Where our clock is ahead, `until` lies in the provider's future:
        who went on from there would pass over what is made meanwhile.
        """
        reached = self.until if self.reached is None else self.reached
        return min(reached, settled_until(listed))

    def next_account(self) -> "EventsPlace | None":
        """The same for the next account, whatever this one has still."""
        if self.account + 1 < len(self.accounts):
            return replace(self, account=self.account + 1, group=0, after=None)
        return None


def settled_until(listed: Listed) -> int:
    """Younger events of this page are left to their webhook: by the clock that made them."""
    return listed.floor - YOUNG_S


class ObjectsPlace(_Place, frozen=True):
    """
    `run` tells comparisons apart, a later one has a larger number; it began at `began` (unix
    seconds of the database's clock). `absent` follows `listed`, if it `asks` for what was on no
    page, in the order of our own numbers of objects, of which `passed` is the last.
    """

    run: int
    began: float
    asks: bool = True
    account: int = 0
    after: str | None = None
    phase: Literal["listed", "absent"] = "listed"
    passed: int = 0

    def after_absent(self, number: int) -> "ObjectsPlace":
        """What comes after the absent object of this number."""
        return replace(self, passed=number)

    def after_page(self, listed: Listed) -> "ObjectsPlace | None":
        """What comes after this page; None where that was all."""
        if listed.has_more:
            return replace(self, after=listed.items[-1]["id"])
        return self.next_account()

    def next_account(self) -> "ObjectsPlace | None":
        """The same for the next account, whatever this one has still."""
        if self.account + 1 < len(self.accounts):
            return replace(self, account=self.account + 1, after=None)
        return replace(self, phase="absent", after=None) if self.asks else None


def groups_of(types: Sequence[str], at_once: int) -> list[Sequence[str]]:
    """Types of events as they can be asked for."""
    return [types[first : first + at_once] for first in range(0, len(types), at_once)]
