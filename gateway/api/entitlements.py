"""The hot question of an application: may this tenant use that? `/api/v1/entitlements/check`."""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from gateway.api.operations import Call, Nothing, Operation, Shown, no_such
from gateway.envelope import Detail, Refusal
from shared.domain.events import is_storable

LARGEST_CHECK = 100

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Whether one tenant may use one feature."""

    tenant: Name
    feature: Name


class Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Either `features` of one `tenant`, or `checks` of any. A tenant's token need not name it."""

    tenant: Name | None = None
    features: Annotated[list[Name], msgspec.Meta(max_length=LARGEST_CHECK)] = []
    checks: Annotated[list[Question], msgspec.Meta(max_length=LARGEST_CHECK)] = []


class Checked(msgspec.Struct, frozen=True, rename="camel"):
    """
    An answer. `allowed`: there is a value, and it is neither `false` nor 0. `value` is null
    without access; at `validUntil` it changes next by the clock.
    """

    tenant: str
    feature: str
    allowed: bool
    value: bool | int | float | str | None
    valid_until: datetime | None


class Answers(msgspec.Struct, frozen=True, rename="camel"):
    """Every answer, in the order in which it was asked."""

    checks: list[Checked]


async def check_entitlements(call: Call[Nothing, Questions]) -> Shown:
    """
    Whether tenants may use features now, up to 100 at once.

    A tenant that nobody ever named may use nothing. A tenant's token that asks for another one is
    answered 404. `If-None-Match` with the ETag of the answer before: 304 while nothing changed.
    """
    asked = _questions(call)
    if not all(call.may_see(tenant) for tenant, _ in asked):
        raise no_such("tenant")
    # What cannot be stored was never granted.
    sane = [one for one in asked if all(map(is_storable, one))]
    found = await call.api.checks.ask(
        {tenant for tenant, _ in sane}, {feature for _, feature in sane}
    )
    answers = []
    for tenant, feature in asked:
        entitlement = found.get((tenant, feature))
        if entitlement is None:
            answers.append(Checked(tenant, feature, False, None, None))
        else:
            value = entitlement.value
            # False equals 0, and "0" is a text like any other.
            answers.append(Checked(tenant, feature, value != 0, value, entitlement.valid_until))
    return Shown(Answers(answers))


def _questions(call: Call[Any, Questions]) -> list[tuple[str, str]]:
    body = call.body
    if body.checks and (body.features or body.tenant is not None):
        raise _unclear("/checks", "either checks, or features of one tenant")
    if body.checks:
        return [(one.tenant, one.feature) for one in body.checks]
    tenant = body.tenant if body.tenant is not None else call.tenant
    if tenant is None:
        raise _unclear("/tenant", "this token is for all tenants: name one")
    if not body.features:
        raise _unclear("/features", "name at least one")
    return [(tenant, feature) for feature in body.features]


def _unclear(pointer: str, message: str) -> Refusal:
    return Refusal(
        "invalid_body", "The body is not what is asked for.", details=[Detail(pointer, message)]
    )


OPERATIONS = (
    Operation(
        "POST",
        "/api/v1/entitlements/check",
        check_entitlements,
        "Whether tenants may use features",
        Answers,
        body=Questions,
        asks=True,
    ),
)
