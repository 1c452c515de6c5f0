"""
Asking Polar: one object by its kind and id, a customer's state, and who its customers are.

Plain HTTP, as its SDK does, without its models: what comes back is stored as it came. The version
is pinned by a header, whatever the organization's default becomes. That an object is not there is
an answer; whether it is believed, others decide: a key of another organization finds nothing.
Source: polarsource/polar docs/openapi/2026-10.openapi.json, docs/api-reference/2026-10, the SDK
polar-sdk 1.0.2 and server/polar/customer/service.py (read 2026-11).
"""

import json
import math
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from shared.domain.states import (
    BENEFIT_GRANT_KIND,
    CUSTOMER_KIND,
    ORDER_KIND,
    STATE_KIND,
    SUBSCRIPTION_KIND,
)
from shared.store.fetches import Claim
from workers.fetching.answers import (
    FORBIDDEN,
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
from workers.fetching.api import Page, date_of, wait_asked_for_s

API_VERSION = "2026-10"

_LIVE, _SANDBOX = "https://api.polar.sh", "https://sandbox-api.polar.sh"
_PAGE = 100  # the most that Polar gives
_LONGEST_BODY_BYTES = 8 << 20
_KEPT_HEADERS = ("date", "polar-version", "x-request-id")
# Without the slash at its end a list is a redirect, and none is followed.
_CUSTOMERS = "/v1/customers/"
_GRANTS = "/v1/benefit-grants/"

_PATHS = {
    SUBSCRIPTION_KIND: "/v1/subscriptions/{id}",
    ORDER_KIND: "/v1/orders/{id}",
    CUSTOMER_KIND: "/v1/customers/{id}",
    STATE_KIND: "/v1/customers/{id}/state",
}
_CODES = {401: UNAUTHORIZED, 403: FORBIDDEN, 429: RATE_LIMITED}

#: What can be asked for.
KINDS = frozenset({*_PATHS, BENEFIT_GRANT_KIND})


def base_of(livemode: bool) -> str:
    """Polar's own address: the sandbox is another host, with organizations and keys of its own."""
    return _LIVE if livemode else _SANDBOX


class Connections:
    """The connections that all sources of a process share."""

    def __init__(self, timeout_s: float) -> None:
        self.http = httpx.AsyncClient(timeout=timeout_s, follow_redirects=False)

    async def close(self) -> None:
        """Close them."""
        await self.http.aclose()


class PolarApi:
    """One organization's access token at `base`, and what it can ask for."""

    kinds = KINDS
    summary_kind = STATE_KIND

    def __init__(self, key: str, base: str, connections: Connections) -> None:
        self._key = key
        self._base = base
        self._http = connections.http

    async def get(self, claim: Claim) -> Answer:
        """
        The object; nothing where it is not there.

        Raises:
            FetchFailed: there is no answer, or not one about this object.
        """
        calls = _Calls(self)
        if claim.kind == BENEFIT_GRANT_KIND:
            return calls.answer(await _benefit_grant(calls, claim))
        return calls.answer(await _object(calls, claim.kind, claim.object_id))

    async def sees(self, customer: str) -> bool:
        """
        Whether the token is of this customer's organization.

        Raises:
            FetchFailed: there is no answer.
        """
        return await _object(_Calls(self), CUSTOMER_KIND, customer) is not None

    async def list_customers(self, number: int) -> Page:
        """
        One page of the customers, the oldest first.

        Raises:
            FetchFailed: there is no answer.
        """
        return await _customers(_Calls(self), number)

    async def request(
        self, path: str, params: Mapping[str, str | int]
    ) -> tuple[Any, httpx.Headers]:
        """
        The JSON, None for 404, and the headers of one answer.

        Raises:
            FetchFailed: it is none, or not from the API.
        """
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Polar-Version": API_VERSION,
            "Accept": "application/json",
        }
        try:
            async with self._http.stream(
                "GET", self._base + path, params=dict(params), headers=headers
            ) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _LONGEST_BODY_BYTES:
                        raise FetchFailed(UNREADABLE, f"{path} answered without end")
        except httpx.HTTPError as error:
            code = TIMEOUT if isinstance(error, httpx.TimeoutException) else UNREACHABLE
            said = f"{type(error).__name__}: {error}"
            raise FetchFailed(code, said.replace(self._key, "…")) from None
        if response.status_code == 404:
            return None, response.headers
        if response.status_code != 200:
            raise self._failure(response, bytes(body))
        try:
            return json.loads(body), response.headers
        except ValueError:
            raise FetchFailed(UNREADABLE, f"{path} answered no JSON") from None

    def _failure(self, response: httpx.Response, body: bytes) -> FetchFailed:
        said = f"{response.status_code}: {body.decode(errors='replace')}"
        wait_s = wait_asked_for_s(response.headers)
        return FetchFailed(_code_of(response.status_code), said.replace(self._key, "…"), wait_s)


class _Calls:
    """The requests of one fetch, and what they say of the time."""

    def __init__(self, api: PolarApi) -> None:
        self._api = api
        self._begun_s = time.monotonic()
        self._floor: int | None = None
        self._ceiling = 0
        self._headers: list[tuple[str, str]] = []
        self._requests = 0

    async def get(self, path: str, **params: str | int) -> dict[str, Any] | None:
        """One JSON object, if it is there."""
        self._requests += 1
        content, headers = await self._api.request(path, params)
        self._ceiling = date_of(headers)
        if self._floor is None:
            elapsed_s = time.monotonic() - self._begun_s
            self._floor = self._ceiling - math.ceil(elapsed_s) - 1
        self._headers = [(name, headers[name]) for name in _KEPT_HEADERS if name in headers]
        if content is not None and not isinstance(content, dict):
            raise FetchFailed(UNREADABLE, f"{path} answered no object")
        return content

    async def get_page(
        self, path: str, number: int, **params: str | int
    ) -> tuple[list[dict[str, Any]], bool]:
        """One page of a list, and whether there are more."""
        content = await self.get(path, **params, page=number, limit=_PAGE)
        if content is None:
            raise FetchFailed(REFUSED, f"{path} is not there")
        items, pagination = content.get("items"), content.get("pagination")
        last = pagination.get("max_page") if isinstance(pagination, dict) else None
        if not isinstance(items, list) or not isinstance(last, int):
            raise FetchFailed(UNREADABLE, f"{path} answered no list")
        if not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in items):
            raise FetchFailed(UNREADABLE, f"{path} lists what has no id")
        return items, number < last

    def answer(self, result: Mapping[str, Any] | None) -> Answer:
        """What all of them came to."""
        assert self._floor is not None
        return Answer(result, self._floor, self._ceiling, self._requests, self._headers)


async def _object(calls: _Calls, kind: str, object_id: str) -> dict[str, Any] | None:
    path = _PATHS[kind].format(id=quote(object_id, safe=""))
    found = await calls.get(path)
    if found is not None and found.get("id") != object_id:
        raise FetchFailed(UNREADABLE, f"{path} answered another object")
    return found


async def _benefit_grant(calls: _Calls, claim: Claim) -> dict[str, Any] | None:
    """A grant has no address of its own: it is one of its customer's."""
    if claim.customer is None:
        raise FetchFailed(REFUSED, "whose grant it is, is not known")
    number, has_more = 1, True
    while has_more:
        grants, has_more = await calls.get_page(_GRANTS, number, customer_id=claim.customer)
        for grant in grants:
            if grant["id"] == claim.object_id:
                return grant
        number += 1
    return None


async def _customers(calls: _Calls, number: int) -> Page:
    # The oldest first: who comes while pages are read comes last.
    found, has_more = await calls.get_page(_CUSTOMERS, number, sorting="created_at")
    return Page(tuple(one["id"] for one in found), has_more)


def _code_of(status: int) -> str:
    if status in _CODES:
        return _CODES[status]
    if status >= 500:
        return SERVER_ERROR
    # A redirect: whoever answered, it was not the API.
    return REFUSED if 400 <= status < 500 else UNREADABLE
