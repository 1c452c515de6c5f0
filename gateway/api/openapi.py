"""
The API's OpenAPI 3.1 document, made of its operations and their types: nothing is said twice.

What is no operation, the ways in and the health of the process, is described here by hand.
"""

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from gateway.api.operations import ANYBODY, Nothing, Operation
from gateway.api.receipts import RECEIPTS, Receipt
from gateway.envelope import STATUS_OF, Detail

_SCHEMAS = "#/components/schemas/"
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")

#: What every operation may answer with, whatever it is.
_ALWAYS = (
    "malformed_request", "missing_token", "invalid_token", "not_found", "too_many_requests",
    "headers_too_large", "internal", "overloaded", "store_unavailable", "not_configured",
)  # fmt: skip
_OF_A_BODY = ("body_timeout", "body_too_large", "unsupported_media_type", "invalid_body")
_OF_A_WRITE = ("key_in_flight", "key_reused", "conflict")

_ABOUT = """
Every JSON body is the envelope `{"data": …, "error": null, "meta": {"traceId": …}}`; of an error,
`data` is null and `error` has a stable `code`, a `message` for people, and sometimes `details`:
JSON pointers into what was sent. Codes may be added; the status says what kind of error one is.

Lists have `meta.limit`, `meta.hasMore` and `meta.next`, the cursor of the next page, which holds
for as long as the list does. Times are RFC 3339 in UTC.

Requests carry `Authorization: Bearer slu_…`, a token of `sluice tokens create`. A tenant's token
sees that tenant, and of everything else that it is not there. A POST may carry an
`Idempotency-Key`: the same key with the same body gets the first answer again.

Answers carry `X-Request-Id` (yours, or the trace id), and `RateLimit` says what is left of the
token's rate. `HEAD` answers wherever `GET` does.
"""

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_HEADERS: dict[str, Any] = {
    "X-Request-Id": ("The request's own id, or the trace id.", _TEXT),
    "ETag": ("Of what the answer says; for `If-None-Match`.", _TEXT),
    "Cache-Control": ("`private, no-cache`: ask again, with the ETag.", _TEXT),
    "RateLimit-Policy": ('The rate: `"default";q=6000;w=60`.', _TEXT),
    "RateLimit": ('What is left, and until when: `"default";r=5999;t=30`.', _TEXT),
    "X-RateLimit-Limit": ("Requests in a window.", _NUMBER),
    "X-RateLimit-Remaining": ("Requests that are left in this window.", _NUMBER),
    "X-RateLimit-Reset": ("Seconds until the next window.", _NUMBER),
    "Retry-After": ("Seconds to wait before the next request.", _NUMBER),
    "WWW-Authenticate": ("What is wanted: a bearer token.", _TEXT),
    "Allow": ("The methods that there are.", _TEXT),
}
_OF_EVERY_ANSWER = ("X-Request-Id",)
_OF_RATES = (
    "RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)  # fmt: skip


def document(
    operations: Sequence[Operation], answered: Collection[tuple[str, str]], version: str
) -> Any:
    """
    The document as JSON has it, of the operations and of the receipts whose method and path are
    `answered`.
    """
    types = [*_types_of(operations), Detail]
    schemas, components = msgspec.json.schema_components(types, ref_template=_SCHEMAS + "{name}")
    _mark_times(types, components)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    found: dict[str, Any] = {}
    for operation in operations:
        entry = _operation(operation, schema_of, components)
        found.setdefault(plain(operation.path), {})[operation.method.lower()] = entry
    for receipt in RECEIPTS:
        if (receipt.method, receipt.path) in answered:
            found.setdefault(plain(receipt.path), {})[receipt.method.lower()] = _receipt(receipt)
    # What requests are read into is described where it is asked for.
    for query in {operation.query.__name__ for operation in operations}:
        components.pop(query, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sluice", "version": version, "description": _ABOUT.strip()},
        "servers": [{"url": "/"}],
        "paths": found,
        "components": {
            "schemas": {**components, **_envelopes()},
            "headers": {
                name: {"description": text, "schema": schema}
                for name, (text, schema) in _HEADERS.items()
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def plain(path: str) -> str:
    """A route's path without its converters."""
    return _PARAMETER.sub(r"{\1}", path)


# Operations -------------------------------------------------------------------------------------


def _operation(one: Operation, schema_of: dict[str, Any], components: dict[str, Any]) -> Any:
    parameters = [_path_parameter(*found) for found in _PARAMETER.findall(one.path)]
    parameters += _query_parameters(schema_of[repr(one.query)], components)
    if one.only_reads:
        parameters.append(_header_parameter("If-None-Match", "An ETag; 304 where it still holds."))
    else:
        parameters.append(
            _header_parameter(
                "Idempotency-Key",
                "1 to 200 visible ASCII characters, no quotes inside.",
                r'^("[!#-~]{1,200}"|[!#-~]{1,200})$',
            )
        )
    described: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": _description(one),
        "tags": [one.tag or one.path.split("/")[3].replace("-", " ")],
        "security": [{"token": []}],
        "parameters": parameters,
        "responses": _responses(one, schema_of),
    }
    if one.body is not Nothing:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[repr(one.body)]}},
        }
    return described


def _description(one: Operation) -> str:
    text = inspect.getdoc(one.act) or one.summary
    if one.who != ANYBODY:
        text += f"\n\nFor tokens of the scope {' or '.join(sorted(one.who))}."
    return text


def _responses(one: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {} for media_type in one.media_types}
    if one.answer is not None:
        schema = schema_of[repr(one.answer)]
        content["application/json"] = {"schema": _success(schema, is_list=one.is_list)}
    headers = [*_OF_EVERY_ANSWER, *_OF_RATES, "Cache-Control"]
    responses: dict[str, Any] = {
        str(one.status): {
            "description": one.summary,
            "headers": _headers([*headers, "ETag"] if one.only_reads else headers),
            "content": content,
        }
    }
    if one.only_reads:
        responses["304"] = {
            "description": "What the ETag says still holds.",
            "headers": _headers([*headers, "ETag"]),
        }
    return responses | _errors(_codes(one))


def _codes(one: Operation) -> Iterator[str]:
    yield from _ALWAYS
    yield from one.errors
    if one.who != ANYBODY:
        yield "forbidden"
    if one.body is not Nothing:
        yield from _OF_A_BODY
    if not one.only_reads:
        yield from _OF_A_WRITE


def _types_of(operations: Sequence[Operation]) -> list[Any]:
    """Every type once; some of them cannot be hashed."""
    types = [
        found
        for one in operations
        for found in (one.answer, one.query, one.body)
        if found is not None
    ]
    return list({repr(found): found for found in types}.values())


# Receipts ---------------------------------------------------------------------------------------


def _receipt(one: Receipt) -> Any:
    described: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": one.description,
        "tags": [one.tag],
        "security": [],
        "parameters": [_path_parameter(*found) for found in _PARAMETER.findall(one.path)]
        + [_header_parameter(name, text) for name, text in one.headers.items()],
        "responses": {
            str(one.status): {
                "description": one.summary,
                "headers": _headers(_OF_EVERY_ANSWER),
                "content": {"application/json": {"schema": _success(one.answer)}},
            }
        }
        | _errors((*one.errors, "headers_too_large", "internal", "overloaded")),
    }
    if one.also is not None:
        described["responses"][str(one.also)] = described["responses"][str(one.status)]
    if one.media_types:
        described["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": {}} for media_type in one.media_types},
        }
    return described


# Parts ------------------------------------------------------------------------------------------


def _path_parameter(name: str, converter: str) -> Any:
    text = "A slash in it is written %2F." if converter else ""
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _query_parameters(schema: Any, components: dict[str, Any]) -> Iterator[Any]:
    found = components[schema["$ref"].removeprefix(_SCHEMAS)]
    for name, what in found["properties"].items():
        yield {
            "name": name,
            "in": "query",
            "required": name in found.get("required", ()),
            "description": what.get("description", ""),
            "schema": _without_null(what),
        }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What a text can say: null is said by leaving it out."""
    kept = {name: value for name, value in schema.items() if name != "description"}
    if kept.get("default", "") is None:
        del kept["default"]
    choices = [one for one in kept.pop("anyOf", []) if one != {"type": "null"}]
    if len(choices) == 1:
        return {**choices[0], **kept}
    return {"anyOf": choices, **kept} if choices else kept


def _header_parameter(name: str, text: str, pattern: str | None = None) -> Any:
    schema = _TEXT if pattern is None else {**_TEXT, "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _success(data: Any, *, is_list: bool = False) -> Any:
    return {
        "type": "object",
        "required": ["data", "error", "meta"],
        "properties": {
            "data": {"type": "array", "items": data} if is_list else data,
            "error": {"type": "null"},
            "meta": {"$ref": _SCHEMAS + ("PageMeta" if is_list else "Meta")},
        },
        "additionalProperties": False,
    }


def _errors(codes: Iterable[str]) -> dict[str, Any]:
    """By status, with the codes that it may have here."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS_OF[code], []).append(code)
    return {str(status): _error(status, found) for status, found in sorted(by_status.items())}


def _error(status: int, codes: list[str]) -> Any:
    names = [*_OF_EVERY_ANSWER]
    names += {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])
    code = {"properties": {"code": {"enum": codes}}}
    schema = {"allOf": [{"$ref": _SCHEMAS + "Refused"}, {"properties": {"error": code}}]}
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "headers": _headers(names),
        "content": {"application/json": {"schema": schema}},
    }


def _envelopes() -> dict[str, Any]:
    trace = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    return {
        "Meta": {
            "type": "object",
            "required": ["traceId"],
            "properties": {"traceId": trace},
        },
        "PageMeta": {
            "type": "object",
            "required": ["traceId", "limit", "next", "hasMore"],
            "properties": {
                "traceId": trace,
                "limit": _NUMBER,
                "next": {"type": ["string", "null"], "description": "The next page's `cursor`."},
                "hasMore": {"type": "boolean"},
            },
        },
        "Refused": {
            "type": "object",
            "required": ["data", "error", "meta"],
            "properties": {
                "data": {"type": "null"},
                "error": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {
                        "code": _TEXT,
                        "message": _TEXT,
                        "details": {"type": "array", "items": {"$ref": _SCHEMAS + "Detail"}},
                    },
                    "additionalProperties": False,
                },
                "meta": {"$ref": _SCHEMAS + "Meta"},
            },
            "additionalProperties": False,
        },
    }


def _mark_times(types: Iterable[Any], components: dict[str, Any]) -> None:
    """Because msgspec leaves `format` out where a time might have no zone; ours all have one."""
    for struct in _structs(msgspec.inspect.multi_type_info(types)):
        properties = components.get(struct.cls.__name__, {}).get("properties", {})
        for field in struct.fields:
            schema = properties.get(field.encode_name, {})
            found = field.type
            choices = found.types if isinstance(found, msgspec.inspect.UnionType) else (found,)
            if any(isinstance(one, msgspec.inspect.DateTimeType) for one in choices):
                for one in schema.get("anyOf", [schema]):
                    if one.get("type") == "string":
                        one["format"] = "date-time"


def _structs(found: Iterable[Any]) -> Iterator[msgspec.inspect.StructType]:
    """Every struct that types are made of, once."""
    waiting, seen = list(found), set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, msgspec.inspect.StructType):
            if one.cls in seen:
                continue
            seen.add(one.cls)
            yield one
            waiting += [field.type for field in one.fields]
        elif isinstance(one, msgspec.inspect.UnionType):
            waiting += one.types
        elif isinstance(one, msgspec.inspect.CollectionType | msgspec.inspect.VarTupleType):
            waiting.append(one.item_type)
        elif isinstance(one, msgspec.inspect.DictType):
            waiting.append(one.value_type)
