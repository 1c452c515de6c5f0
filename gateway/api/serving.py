"""From a request to a `Call`, and from what came of it to an answer: for every operation."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.operations import Api, Call, Nothing, Operation, Shown
from gateway.door import Visit
from gateway.envelope import Detail, Refusal, answer, encode
from gateway.idempotency import read_key
from gateway.ingress import read_body
from shared.domain.events import is_storable

_LARGEST_BODY_BYTES = 1 << 20
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
#: `Expected int - at `$.limit``, as msgspec says it.
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<place>[^`]*)`)?$", re.DOTALL)

_NOTHING = Nothing()

Endpoint = Callable[[Request], Awaitable[Response]]
#: A method, a path, and what answers them.
Place = tuple[str, str, Endpoint]


def places_of(operations: Sequence[Operation], api: Api) -> list[Place]:
    """What answers each of the operations."""
    return [(one.method, one.path, partial(_serve, one, api)) for one in operations]


def routes_of(places: Iterable[Place]) -> list[Route]:
    """One route a path, whatever its methods: or a 405 would not name them all."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for method, path, endpoint in places:
        by_path.setdefault(path, {})[method] = endpoint
    return [
        Route(path, _endpoint(methods), methods=list(methods)) for path, methods in by_path.items()
    ]


def _endpoint(methods: dict[str, Endpoint]) -> Endpoint:
    async def serve(request: Request) -> Response:
        # Starlette answers HEAD where there is a GET.
        method = "GET" if request.method == "HEAD" else request.method
        return await methods[method](request)

    return serve


async def _serve(operation: Operation, api: Api, request: Request) -> Response:
    visit: Visit = request.scope["visit"]
    visit.headers = {b"cache-control": b"private, no-cache", b"vary": b"Authorization"}
    token = await operation.admit(api, request) if operation.admit is not None else None
    if token is None:
        token = await api.tokens.authenticate(request)
    await _charge(api, visit, str(token.id))
    if token.scope.partition(":")[0] not in operation.who:
        # A tenant is not even told whether what it asks for by its name exists.
        if token.scope.startswith("tenant:") and _PARAMETER.search(operation.path):
            raise Refusal("not_found", "There is nothing here.")
        raise Refusal("forbidden", "The token's scope does not cover this.")
    path: dict[str, str] = dict(request.path_params)
    if not all(is_storable(value) for name, value in path.items() if name not in operation.sealed):
        raise Refusal("not_found", "There is nothing here.")
    key = read_key(request.headers.items()) if operation.method == "POST" else None
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
    if operation.only_reads and shown.status == 200:
        return _answer_if_new(shown, request, visit)
    return answer(
        shown.data, visit.trace_id, status=shown.status, headers=shown.headers, **shown.meta
    )


async def _charge(api: Api, visit: Visit, token_id: str) -> None:
    """Count the request, and say on its answer, whatever that will be, how much is left."""
    quota = await api.limits.charge(token_id)
    if quota is None:
        return
    assert visit.headers is not None
    for name, value in quota.headers().items():
        visit.headers[name.lower().encode()] = value.encode()
    if quota.remaining < 0:
        raise Refusal(
            "too_many_requests",
            "The token's rate is used up for now.",
            {"Retry-After": str(quota.resets_in_s)},
        )


def _answer_if_new(shown: Shown, request: Request, visit: Visit) -> Response:
    """200 with its ETag, or 304 where the caller has that already."""
    data = encode(shown.data)
    said = data if shown.said is None else encode(shown.said)
    # A cursor is another text each time, and a trace is this request's: neither is what it says.
    meta = {name: value for name, value in shown.meta.items() if name != "next"}
    digest = hashlib.sha256(said + encode(meta)).hexdigest()[:32]
    # Weak: `meta` holds the trace id, so the bytes are never the same (RFC 9110, 8.8.1).
    etag = f'W/"{digest}"'
    headers = {**shown.headers, "ETag": etag}
    if _knows(request.headers.getlist("if-none-match"), digest):
        return Response(status_code=304, headers=headers)
    return answer(msgspec.Raw(data), visit.trace_id, headers=headers, **shown.meta)


def _knows(fields: Sequence[str], digest: str) -> bool:
    """Whether `If-None-Match` names it; compared weakly, as that header wants it."""
    tags = [tag.strip().removeprefix("W/") for field in fields for tag in field.split(",")]
    return "*" in tags or f'"{digest}"' in tags


def _query_of(operation: Operation, request: Request) -> Any:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise Refusal("malformed_request", f"{name}: is there twice")
        given[name] = value
    try:
        query = msgspec.convert(given, type=operation.query, strict=False)
        fields = msgspec.structs.fields(operation.query)
        for name in (one.encode_name for one in fields if getattr(query, one.name) is None):
            # Where no text is wanted, msgspec takes "null" for nothing said.
            if name in given:
                raise msgspec.ValidationError(f"Invalid value {given[name]!r} - at `$.{name}`")
        return query
    except msgspec.ValidationError as error:
        detail = _detail_of(error)
        where = detail.pointer.removeprefix("/")
        message = f"{where}: {detail.message}" if where else detail.message
        raise Refusal("malformed_request", message, details=[detail]) from None


async def _body_of(operation: Operation, request: Request) -> Any:
    if operation.body is Nothing:
        return _NOTHING
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, _LARGEST_BODY_BYTES)
    if body and media_type != "application/json":
        raise Refusal("unsupported_media_type", "The body must be application/json.")
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
