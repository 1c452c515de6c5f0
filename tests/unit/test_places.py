"""Where a pull goes on, whether a listed object is news, and what two renderings have in common."""

import json
from typing import Any

import pytest

from shared.domain.commands import Observe
from shared.domain.register import NOTHING, Register, Sighting
from shared.domain.states import ObjectState
from shared.domain.summaries import differs
from shared.providers import providers
from tests.support.stripe_events import event, subscription
from workers.fetching.answers import FORBIDDEN, NOT_FOUND, SERVER_ERROR, FetchFailed
from workers.fetching.api import Listed
from workers.fetching.places import EventsPlace, ObjectsPlace, groups_of
from workers.fetching.pull import elsewhere
from workers.jobs.estimating import estimated, oldest_of


def page(*ids: str, has_more: bool = False) -> Listed:
    return Listed(tuple({"id": one} for one in ids), has_more, 0, 0, 1, [])


def test_events_are_gone_through_by_pages_groups_and_accounts() -> None:
    at: EventsPlace | None = EventsPlace(("", "acct_1"), 10, 20)
    seen = []
    for listed in [page("a", "b", has_more=True), page("c"), page(), page("d"), page("e")]:
        assert at is not None
        seen.append((at.account, at.group, at.after))
        at = EventsPlace.read(json.loads(json.dumps(at.at_rest()))).after_page(listed, 2)
    assert seen == [(0, 0, None), (0, 0, "b"), (0, 1, None), (1, 0, None), (1, 1, None)]
    assert at is None


@pytest.mark.parametrize("asks", [True, False])
def test_what_was_on_no_page_comes_after_all_pages(asks: bool) -> None:
    at: ObjectsPlace | None = ObjectsPlace(("", "acct_1"), 7, 1.5, asks)
    for listed in [page("a", has_more=True), page("b"), page()]:
        assert at is not None
        assert at.phase == "listed"
        at = at.after_page(listed)
    assert (at.phase if at is not None else None) == ("absent" if asks else None)


def test_only_an_account_that_left_is_passed_over() -> None:
    at = EventsPlace(("", "acct_1", "acct_2"), 0, 1, account=1, group=1, after="x")
    assert elsewhere(at, FetchFailed(FORBIDDEN, "")) == EventsPlace(at.accounts, 0, 1, account=2)
    again = elsewhere(at, FetchFailed(NOT_FOUND, ""))
    assert again == EventsPlace(at.accounts, 0, 1, account=1, group=1)
    own = EventsPlace(("",), 0, 1)
    for code in (FORBIDDEN, NOT_FOUND, SERVER_ERROR):
        with pytest.raises(FetchFailed):
            elsewhere(own, FetchFailed(code, ""))


def test_types_are_asked_for_in_groups_that_the_provider_takes() -> None:
    types = providers()["stripe"].event_types({"grants_from": "summary"})
    groups = groups_of(types, 20)
    assert [len(group) for group in groups] == [20, len(types) - 20]
    assert [one for group in groups for one in group] == list(types)


STATE, OTHER = ObjectState("active", customer="cus_1"), ObjectState("canceled", customer="cus_1")


def seen(state: ObjectState, floor: int) -> Observe:
    return Observe("subscription", "sub_1", floor, "fetch", None, state, ceiling=floor, number=1)


@pytest.mark.parametrize(("held", "listed", "is_news"), [
    (None, seen(STATE, 10), True),
    (Register(0, unknown=ObjectState("unobserved"), wants="hint"), seen(STATE, 10), True),
    (Register(5, (Sighting(5, STATE),)), seen(STATE, 10), False),
    (Register(5, (Sighting(5, STATE),)), seen(OTHER, 10), True),
    (Register(11, (Sighting(11, STATE),)), seen(OTHER, 10), False),  # may be newer
    (Register(5, (Sighting(5, OTHER),), terminal=True), seen(STATE, 10), False),
    (NOTHING, seen(STATE, 10), True),  # all that was told of it was taken back
])  # fmt: skip
def test_what_is_news_of_an_object(held: Register | None, listed: Observe, is_news: bool) -> None:
    assert differs(held, listed) is is_news


def rendered(**changes: Any) -> bytes:
    content = json.loads(event("t", subscription(), event_id="evt_1"))
    of = changes.pop("of", {})
    content["data"]["object"] |= of
    return json.dumps(content | changes).encode()


@pytest.mark.parametrize(("other", "is_same"), [
    (rendered(pending_webhooks=7), True),
    (rendered(of={"status": "canceled"}), False),
    (rendered(of={"status": "canceled"}, api_version="2019-01-01"), True),
    (rendered(api_version=None), True),
    (rendered(of={"id": "sub_2"}, api_version="2019-01-01"), False),
    (rendered(type="u", api_version="2019-01-01"), False),
    (rendered(created=1, api_version="2019-01-01"), False),
    (rendered(livemode=False, api_version="2019-01-01"), False),
    (rendered(account="acct_1", api_version="2019-01-01"), False),
    (rendered(data=7, api_version="2019-01-01"), False),
])  # fmt: skip
def test_of_two_renderings_only_what_none_changes_is_compared(other: bytes, is_same: bool) -> None:
    stripe = providers()["stripe"]
    assert stripe.same_event(rendered(), other) is is_same
    assert stripe.same_event(other, rendered()) is is_same


async def test_how_many_there_are_is_told_from_when_the_first_was_made() -> None:
    first, last = 1_600_000_000, 1_700_000_000

    async def is_any_before(moment: int) -> bool:
        return moment > first

    oldest = await oldest_of(last, is_any_before)
    assert abs(oldest - first) < 5 * 86400
    assert estimated(100, last, last - (last - first) // 10, oldest) == pytest.approx(1000, rel=0.1)
    assert estimated(100, last, last, oldest) is None
