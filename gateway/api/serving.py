"""From a request to a `Call`, and from what came of it to an answer: for every operation."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.operations import Api, Call, Nothing, Operation
from gateway.api.tokens import authenticate
from gateway.door import Visit
from gateway.envelope import Detail, Refusal, answer
from gateway.idempotency import read_key
from shared.domain.events import is_storable

_LARGEST_BODY_BYTES = 1 << 20
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
#: `Expected int - at `$.limit``, as msgspec says it.
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<place>[^`]*)`)?$", re.DOTALL)

_NOTHING = Nothing()


def routes_of(operations: Sequence[Operation], api: Api) -> list[Route]:
    """One route a path, whatever its methods: or a 405 would not name them all."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return [
        Route(path, _endpoint(methods, api), methods=list(methods))
        for path, methods in by_path.items()
    ]


def _endpoint(methods: dict[str, Operation], api: Api) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        # Starlette answers HEAD where there is a GET.
        method = "GET" if request.method == "HEAD" else request.method
        return await _serve(methods[method], api, request)

    return serve


async def _serve(operation: Operation, api: Api, request: Request) -> Response:
    visit: Visit = request.scope["visit"]
    token = await authenticate(api, request)
    if token.scope.partition(":")[0] not in operation.who:
        # Where something is asked for by its name, not even whether it exists.
        if _PARAMETER.search(operation.path):
            raise Refusal("not_found", "There is nothing here.")
        raise Refusal("forbidden", "The token's scope does not cover this.")
    path: dict[str, str] = dict(request.path_params)
    if not all(map(is_storable, path.values())):
        raise Refusal("not_found", "There is nothing here.")
    key = read_key(request.headers) if operation.method == "POST" else None
    call = Call(
        api=api,
        token=token,
        path=path,
        query=_query_of(operation, request),
        body=await _body_of(operation, request),
        request=request,
        trace_id=visit.trace_id,
        key=key,
    )
    shown = await operation.act(call)
    if isinstance(shown, Response):
        return shown
    return answer(
        shown.data, visit.trace_id, status=shown.status, headers=shown.headers, **shown.meta
    )


def _query_of(operation: Operation, request: Request) -> Any:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise Refusal("malformed_request", f"{name}: is there twice")
        given[name] = value
    try:
        return msgspec.convert(given, type=operation.query, strict=False)
    except msgspec.ValidationError as error:
        detail = _detail_of(error)
        where = detail.pointer.removeprefix("/")
        message = f"{where}: {detail.message}" if where else detail.message
        raise Refusal("malformed_request", message, details=[detail]) from None


async def _body_of(operation: Operation, request: Request) -> Any:
    if operation.body is Nothing:
        return _NOTHING
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type == "application/json"
    body = bytearray()
    async for chunk in request.stream():
        if chunk and not is_json:
            raise Refusal("unsupported_media_type", "The body must be application/json.")
        body += chunk
        if len(body) > _LARGEST_BODY_BYTES:
            raise Refusal("body_too_large", "The body is larger than 1 MiB.")
    try:
        # No body says nothing, as {} does; what must be said is missing then.
        return msgspec.json.decode(body or b"{}", type=operation.body)
    except msgspec.ValidationError as error:
        raise Refusal(
            "invalid_body", "The body is not what is asked for.", details=[_detail_of(error)]
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal("malformed_request", "The body is not JSON.") from None


def _detail_of(error: msgspec.ValidationError) -> Detail:
    found = _PLACE.match(str(error))
    assert found is not None  # it fits any text
    place = found["place"] or ""
    steps = re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", place)
    pointer = "".join(f"/{name or index}" for name, index in steps)
    return Detail(pointer, found["what"])
