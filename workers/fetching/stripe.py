"""
Asking Stripe: one object by its kind and id, with every list of it whole; a page of its events,
or of its subscriptions.

The SDK makes the calls; its retries are off, because a retry is a fetch of its own with a number
of its own. The version is pinned: what comes back is to have the shape that
`shared.providers.stripe` was written for, whatever the account's default becomes.
Source: docs.stripe.com/api, /api/pagination, /error-handling and the stripe SDK (read 2026-11).
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import stripe

from shared.domain.states import (
    CHARGE_KIND,
    CUSTOMER_KIND,
    DISPUTE_KIND,
    INVOICE_KIND,
    INVOICE_PAYMENT_KIND,
    REFUND_KIND,
    SESSION_KIND,
    SUBSCRIPTION_KIND,
    SUMMARY_KIND,
    WARNING_KIND,
)
from shared.store.fetches import Claim
from workers.fetching.answers import (
    FORBIDDEN,
    MODE_MISMATCH,
    NOT_FOUND,
    RATE_LIMITED,
    REFUSED,
    SERVER_ERROR,
    TIMEOUT,
    UNAUTHORIZED,
    UNREACHABLE,
    UNREADABLE,
    Answer,
    FetchFailed,
)
from workers.fetching.api import Listed, date_of, wait_asked_for_s

PROVIDER = "stripe"
API_VERSION = "2026-10-28.endive"

_PAGE = 100
_KEPT_HEADERS = ("date", "request-id", "stripe-version", "stripe-account")

_PATHS = {
    SUBSCRIPTION_KIND: "/v1/subscriptions/{id}",
    SESSION_KIND: "/v1/checkout/sessions/{id}",
    CUSTOMER_KIND: "/v1/customers/{id}",
    INVOICE_KIND: "/v1/invoices/{id}",
    INVOICE_PAYMENT_KIND: "/v1/invoice_payments/{id}",
    CHARGE_KIND: "/v1/charges/{id}",
    REFUND_KIND: "/v1/refunds/{id}",
    DISPUTE_KIND: "/v1/disputes/{id}",
    WARNING_KIND: "/v1/radar/early_fraud_warnings/{id}",
}
_EXPAND = {SESSION_KIND: ["line_items"]}
_SUBSCRIPTIONS = "/v1/subscriptions"
_SUMMARY_PATH = "/v1/entitlements/active_entitlements"

_CODES = {401: UNAUTHORIZED, 403: FORBIDDEN}

#: What can be asked for.
KINDS = frozenset({*_PATHS, SUMMARY_KIND})


class Connections:
    """The connections that all sources of a process share."""

    def __init__(self, timeout_s: float) -> None:
        # It would write a file into the home of whoever runs us, and tell Stripe of the platform.
        stripe.enable_telemetry = False
        self.http = stripe.HTTPXClient(timeout=timeout_s)

    async def close(self) -> None:
        """Close them."""
        await self.http.close_async()  # type: ignore[no-untyped-call]


class StripeApi:
    """One API key, and what it can ask for. `base` is None for Stripe's own address."""

    kinds = KINDS
    events_kept_s = 30 * 86400.0
    types_at_once = 20
    listed_kind = SUBSCRIPTION_KIND

    def __init__(self, key: str, base: str | None, connections: Connections) -> None:
        self._key = key
        self._client = stripe.StripeClient(
            key,
            base_addresses={"api": base} if base is not None else {},
            stripe_version=API_VERSION,
            max_network_retries=0,
            http_client=connections.http,
        )

    async def get(self, claim: Claim) -> Answer:
        """
        The object, of the claim's connected account unless that is "".

        Raises:
            FetchFailed: there is no answer, or not one about this object.
        """
        calls = _Calls(self._request, claim.account, claim.livemode)
        if claim.kind == SUMMARY_KIND:
            result = await _summary(calls, claim.object_id)
        else:
            result = await _object(calls, claim.kind, claim.object_id)
        return calls.answer(result)

    async def sees(self, customer: str) -> bool:
        """See `Seeing`. Of a customer that was deleted it knows still."""
        path = _PATHS[CUSTOMER_KIND].format(id=quote(customer, safe=""))
        try:
            await self._request(path, {}, "")
        except FetchFailed as failure:
            if failure.code == NOT_FOUND:
                return False
            raise
        return True

    async def list_events(
        self, account: str, livemode: bool, types: Sequence[str], since: int, until: int,
        after: str | None,
    ) -> Listed:  # fmt: skip
        """See `Archive`."""
        calls = _Calls(self._request, account, livemode)
        created = {"gte": since, "lte": until}
        data, has_more = await calls.get_page(
            "/v1/events", after, types=list(types), created=created
        )
        # The account's own API does not say in its events whose they are, as its webhooks do.
        items = [{**one, "account": account} if account else one for one in data]
        return calls.listed(items, has_more)

    async def list_objects(self, account: str, livemode: bool, after: str | None) -> Listed:
        """See `Archive`."""
        calls = _Calls(self._request, account, livemode)
        data, has_more = await calls.get_page(
            _SUBSCRIPTIONS, after, status="all", expand=["data.customer"]
        )
        for one in data:
            await _complete_items(calls, one)
        return calls.listed(data, has_more)

    async def is_any_before(self, account: str, livemode: bool, moment: int) -> bool:
        """See `Archive`."""
        calls = _Calls(self._request, account, livemode)
        created = {"lt": moment}
        page = await calls.get(_SUBSCRIPTIONS, status="all", limit=1, created=created)
        return bool(page.get("data"))

    async def _request(
        self, path: str, params: Mapping[str, Any], account: str
    ) -> stripe.StripeResponse:
        options = {"stripe_account": account} if account else {}
        try:
            response: stripe.StripeResponse = await self._client.raw_request_async(
                "get", path, **params, **options
            )
        except stripe.StripeError as error:
            raise _failure(error, self._key) from None
        return response


Request = Callable[[str, Mapping[str, Any], str], Awaitable[stripe.StripeResponse]]


class _Calls:
    """The requests of one fetch: what they say of the time, and of whom they are."""

    def __init__(self, request: Request, account: str, livemode: bool) -> None:
        self._request = request
        self._account = account
        self._livemode = livemode
        self._floor: int | None = None
        self._ceiling = 0
        self._headers: list[tuple[str, str]] = []
        self._requests = 0

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        """One JSON object, of the mode that was asked for."""
        begun_s = time.monotonic()
        response = await self._request(path, params, self._account)
        elapsed_s = time.monotonic() - begun_s
        self._requests += 1
        date = date_of(response.headers)
        if self._floor is None:
            self._floor = date - math.ceil(elapsed_s) - 1
        self._ceiling = date
        self._headers = [
            (name, response.headers[name]) for name in _KEPT_HEADERS if name in response.headers
        ]
        if not isinstance(response.data, dict):
            raise FetchFailed(UNREADABLE, f"{path} answered no object")
        self._check_mode(response.data)
        return response.data

    async def get_all(self, path: str, **params: Any) -> list[Any]:
        """A list's whole data, page by page."""
        found: list[Any] = []
        has_more = True
        while has_more:
            last = found[-1]["id"] if found else None
            data, has_more = await self.get_page(path, last, **params)
            found += data
        return found

    async def get_page(self, path: str, after: str | None, **params: Any) -> tuple[list[Any], bool]:
        """A list's page after the one that ended with this id, and whether there are more."""
        place = {} if after is None else {"starting_after": after}
        page = await self.get(path, **params, **place, limit=_PAGE)
        data, has_more = page.get("data"), bool(page.get("has_more"))
        if not isinstance(data, list) or not all(_has_id(one) for one in data):
            raise FetchFailed(UNREADABLE, f"{path} answered no list")
        for one in data:
            self._check_mode(one)
        if has_more and not data:
            raise FetchFailed(UNREADABLE, f"{path} has more, and does not give it")
        if len(data) > _PAGE:
            raise FetchFailed(UNREADABLE, f"{path} gives more than it was asked for")
        if any(one["id"] == after for one in data):
            # Whatever answers takes no notice of where we are: it would be read for ever.
            raise FetchFailed(UNREADABLE, f"{path} answers the same page again")
        return data, has_more

    def listed(self, items: Sequence[Mapping[str, Any]], has_more: bool) -> Listed:
        """What all of them came to, where they asked for a page."""
        assert self._floor is not None
        return Listed(
            tuple(items), has_more, self._floor, self._ceiling, self._requests, self._headers
        )

    def answer(self, result: Mapping[str, Any]) -> Answer:
        """What all of them came to."""
        assert self._floor is not None
        return Answer(result, self._floor, self._ceiling, self._requests, self._headers)

    def _check_mode(self, content: Mapping[str, Any]) -> None:
        livemode = content.get("livemode")
        if isinstance(livemode, bool) and livemode != self._livemode:
            word = "live" if livemode else "test"
            raise FetchFailed(MODE_MISMATCH, f"the API key is one of {word} mode")


async def _object(calls: _Calls, kind: str, object_id: str) -> dict[str, Any]:
    path = _PATHS[kind].format(id=quote(object_id, safe=""))
    expand = {"expand": _EXPAND[kind]} if kind in _EXPAND else {}
    found = await calls.get(path, **expand)
    if (found.get("object"), found.get("id")) != (kind, object_id):
        raise FetchFailed(UNREADABLE, f"{path} answered another object")
    if kind == SUBSCRIPTION_KIND:
        await _complete_items(calls, found)
    if kind == SESSION_KIND and _is_cut(found.get("line_items")):
        lines = await calls.get_all(f"{path}/line_items")
        found["line_items"] = {**found["line_items"], "data": lines, "has_more": False}
    return found


async def _complete_items(calls: _Calls, subscription: dict[str, Any]) -> None:
    """Put all of a subscription's items into it, where some were left out."""
    if _is_cut(subscription.get("items")):
        items = await calls.get_all("/v1/subscription_items", subscription=subscription["id"])
        subscription["items"] = {**subscription["items"], "data": items, "has_more": False}


async def _summary(calls: _Calls, customer: str) -> dict[str, Any]:
    """What the customer is entitled to. It is no object of its own and has to be put together."""
    active = await calls.get_all(_SUMMARY_PATH, customer=customer)
    answer: dict[str, Any] = {
        "object": SUMMARY_KIND,
        "customer": customer,
        "entitlements": {"object": "list", "data": active, "has_more": False},
    }
    if not active:
        # An empty list says neither whose it is nor of which mode, and takes everything away: the
        # key of another account or mode must not be what made it empty.
        await calls.get(_PATHS[CUSTOMER_KIND].format(id=quote(customer, safe="")))
    return answer


def _is_cut(content: object) -> bool:
    return isinstance(content, dict) and bool(content.get("has_more"))


def _has_id(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("id"), str)


def _failure(error: stripe.StripeError, key: str) -> FetchFailed:
    if isinstance(error, stripe.APIConnectionError):
        cause = error.__cause__
        code = TIMEOUT if isinstance(cause, httpx.TimeoutException) else UNREACHABLE
        said = f"{type(cause).__name__}: {cause}"
        return FetchFailed(code, said.replace(key, "…"))
    said = (error.user_message or str(error)).replace(key, "…")
    return FetchFailed(_code_of(error), said, wait_asked_for_s(error.headers or {}))


def _code_of(error: stripe.StripeError) -> str:
    status = error.http_status or 0
    if status == 404 or error.code == "resource_missing":
        return NOT_FOUND
    if isinstance(error, stripe.RateLimitError):
        return RATE_LIMITED
    if status in _CODES:
        return _CODES[status]
    if status >= 500:
        return SERVER_ERROR
    # A redirect, or a body that is no JSON: whoever answered, it was not the API.
    return REFUSED if 400 <= status < 500 else UNREADABLE
