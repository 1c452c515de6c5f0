"""A deployment with two tenants that have some of everything, and tokens for each."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.settings import Endpoints
from shared.store import tokens
from tests.gateway.conftest import Gateway, running_gateway
from tests.support.acme import LICENCES, PLANS, REPORTS, add_acme, report
from tests.support.stack import PLANS as STRIPE_PLANS
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription

#: What a sender of licences and reports is called here: `acme` is a tenant.
SENDER = "partner"
#: Metadata of a request, and of nobody's data.
_OF_THE_REQUEST = frozenset({"date", "x-request-id", "content-length"})


@dataclass
class Deployment:
    """A stack, a gateway before it, and who asks."""

    stack: Stack
    gateway: Gateway

    async def token(self, scope: str) -> str:
        token = tokens.new_token()
        digest = tokens.digest_of(token)
        async with self.stack.owner.connection() as conn:
            await tokens.create(conn, uuid.uuid4(), f"for {scope}", scope, digest, "test", None)
        return token

    async def ask(
        self, token: str | None, path: str, method: str = "GET", **more: Any
    ) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        headers |= more.pop("headers", {})
        return await self.gateway.client.request(method, path, headers=headers, **more)

    async def populate(self, tenant: str, number: int = 1) -> None:
        """Give the tenant a customer with a subscription, a licence, records and a gift."""
        sub = subscription(f"sub_{tenant}_{number}", customer=f"cus_{tenant}", tenant=tenant)
        name = f"evt_{tenant}_{number}"
        await self.stack.apply(event("customer.subscription.created", sub, event_id=name))
        await self.stack.apply(
            *(
                report(
                    f"{tenant}_{number}_{part}_{version}",
                    version,
                    id=f"rep_{tenant}_{number}_{part}",
                    tenant=tenant,
                )
                for part in range(3)
                for version in (1, 2)
            ),
            source=SENDER,
        )
        row = 10_000 + await self.stack.value("SELECT count(*) FROM manual_grants")
        await self.stack.value(
            "INSERT INTO manual_grants (object, tenant, given_to, feature, value, actor, reason)"
            " VALUES ($1, $2, $2, 'exports', 'true', 'operator:ana', 'pilot')",
            row,
            tenant,
        )
        await self.stack.value(
            "INSERT INTO grants (object, plan, feature, tenant, value, rank, catalog_version)"
            " VALUES ($1, 'manual', 'exports', $2, 'true', 0, 0)",
            row,
            tenant,
        )
        await self._add_members(tenant, number)

    async def _add_members(self, tenant: str, number: int) -> None:
        for part in range(3):
            await self.stack.value(
                "INSERT INTO objects (source_id, account, livemode, kind, object_id, customer,"
                " tenant, register) VALUES ($1, '', true, 'organization_membership', $2, $3, $3,"
                " json_build_object('version', 1, 'sightings', json_build_array(json_build_object("
                "'version', 1, 'state', json_build_object('status', 'present', 'member', $2::text,"
                " 'role', 'org:member', 'customer', $3::text)))))",
                self.stack.sources["clerk"],
                f"mem_{tenant}_{number}_{part}",
                tenant,
            )


@asynccontextmanager
async def deployed(stack: Stack, endpoints: Endpoints, home: Path) -> AsyncIterator[Deployment]:
    """A deployment with the tenants `acme` and `beta`."""
    await stack.add_source("clerk", "clerk", True)
    await add_acme(stack, LICENCES, REPORTS, name=SENDER)
    await stack.configure(plans={**STRIPE_PLANS, "licence": PLANS["pro"]})
    async with running_gateway(endpoints, home) as gateway:
        deployment = Deployment(stack, gateway)
        await deployment.populate("beta", 0)
        await deployment.populate("acme")
        await deployment.populate("beta")
        yield deployment


def told(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """What an answer tells: all of it but which request it answers. A file is its bytes."""
    if not answer.headers["content-type"].startswith("application/json"):
        return answer.status_code, headers_of(answer), answer.content
    body = answer.json()
    body["meta"].pop("traceId")
    return answer.status_code, headers_of(answer), body


def headers_of(answer: httpx.Response) -> dict[str, str]:
    """Without those that are of the request and its moment."""
    return {
        name: value
        for name, value in answer.headers.items()
        if name not in _OF_THE_REQUEST and not name.startswith(("ratelimit", "x-ratelimit"))
    }
