"""Operations whose handlers are held to the types that they are declared with."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from gateway.api.operations import Act, Call, Operation, Shown


def conforming(operations: Sequence[Operation]) -> list[Operation]:
    """The same operations; what one answers has to be its `answer`, no less and no more."""
    return [dataclasses.replace(one, act=_held_to(one)) for one in operations]


def _held_to(operation: Operation) -> Act:
    @functools.wraps(operation.act)
    async def act(call: Call[Any, Any]) -> Shown | Response:
        shown = await operation.act(call)
        if isinstance(shown, Shown):
            assert_conforms(shown, operation)
        elif operation.media_types:
            media_type = (shown.media_type or "").partition(";")[0]
            known = {*operation.media_types, "application/json"}
            assert "*/*" in known or media_type in known, operation.path
        return shown

    return act


def assert_conforms(shown: Shown, operation: Operation) -> None:
    """Whether the data has the type's fields and no others; and the status is the declared one."""
    kind = list[operation.answer] if operation.is_list else operation.answer  # type: ignore[name-defined]
    said = msgspec.json.encode(shown.data)
    read = msgspec.json.decode(said, type=kind)
    assert json.loads(msgspec.json.encode(read)) == json.loads(said), operation.path
    assert shown.status == operation.status, operation.path
    if operation.is_list:
        assert shown.meta.keys() >= {"limit", "next", "hasMore"}, operation.path
