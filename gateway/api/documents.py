"""`/openapi.json`, and `/docs`: the same document for people, without a script."""

import base64
import hashlib
from collections.abc import Collection, Sequence
from html import escape
from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.openapi import document
from gateway.api.operations import Operation
from gateway.envelope import encode

OPENAPI = "/openapi.json"
DOCS = "/docs"

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem 1.5rem;
color:#1c2024;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #d9dde1}h3{margin-top:2rem;font-size:1rem}
code,pre{font:14px/1.45 ui-monospace,monospace;background:#f3f5f7;border-radius:3px}
code{padding:.1em .3em;overflow-wrap:anywhere}pre{padding:.7rem;overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;
border-bottom:1px solid #eceff2}
th{font-weight:600}.method{font-weight:700;margin-right:.5em}nav ul{padding-left:1.2rem}
details{margin:.5rem 0}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{color:#e6e8ea;background:#16181a}code,pre{background:#24282c}
h2,th,td{border-color:#363b40}a{color:#7ab7ff}}
"""
#: The style is named by its digest: nothing else runs, loads or is sent anywhere.
_NOTHING_ELSE = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
frame-ancestors 'none'"


def documents_of(
    operations: Sequence[Operation], answered: Collection[tuple[str, str]]
) -> list[Route]:
    """The routes of both, made once; both are in neither."""
    found = document(operations, answered, _version())
    content = encode(found)
    page = _page(found).encode()
    policy = _NOTHING_ELSE.format(_digest(_STYLE))

    async def read_openapi(request: Request) -> Response:
        return _fixed(request, content, "application/json", {})

    async def read_docs(request: Request) -> Response:
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return _fixed(request, page, "text/html; charset=utf-8", headers)

    return [Route(OPENAPI, read_openapi), Route(DOCS, read_docs)]


def _fixed(request: Request, content: bytes, media_type: str, headers: dict[str, str]) -> Response:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**headers, "ETag": etag, "Cache-Control": "no-cache"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def _version() -> str:
    try:
        return metadata.version("sluice-gateway")
    except metadata.PackageNotFoundError:
        return "unknown"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# The page ---------------------------------------------------------------------------------------


def _page(found: Any) -> str:
    by_tag: dict[str, list[tuple[str, str, Any]]] = {}
    for path, methods in found["paths"].items():
        for method, one in methods.items():
            by_tag.setdefault(one["tags"][0], []).append((method.upper(), path, one))
    contents = "".join(
        f'<li><a href="#{escape(one["operationId"])}"><code>{method} {escape(path)}</code></a>'
        f" {escape(one['summary'])}</li>"
        for all_of_it in by_tag.values()
        for method, path, one in all_of_it
    )
    sections = "".join(
        f"<h2>{escape(tag.capitalize())}</h2>" + "".join(_section(*one) for one in all_of_it)
        for tag, all_of_it in by_tag.items()
    )
    schemas = "".join(
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{_schema(schema)}</details>"
        for name, schema in sorted(found["components"]["schemas"].items())
    )
    info = found["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sluice API</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(info['title'])} API"
        f" {escape(info['version'])}</h1>{_prose(info['description'])}"
        f'<p>For machines: <a href="{OPENAPI}"><code>{OPENAPI}</code></a>.</p>'
        f"<nav><ul>{contents}</ul></nav>{sections}<h2>Types</h2>{schemas}</body></html>"
    )


def _section(method: str, path: str, one: Any) -> str:
    parts = [
        f'<h3 id="{escape(one["operationId"])}"><span class="method">{method}</span>'
        f"<code>{escape(path)}</code></h3>",
        _prose(one["description"]),
    ]
    parameters = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td>"
        f"<td>{_type(each['schema'])}</td><td>{_inline(each['description'])}</td></tr>"
        for each in one["parameters"]
    )
    if parameters:
        parts.append(
            f"<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>{parameters}</table>"
        )
    if "requestBody" in one:
        bodies = "".join(
            f"<tr><td><code>{escape(media_type)}</code></td><td>{_type(content['schema'])}</td></tr>"
            for media_type, content in one["requestBody"]["content"].items()
        )
        parts.append(f"<table><tr><th>body</th><th>type</th></tr>{bodies}</table>")
    answers = "".join(
        f"<tr><td>{status}</td><td>{_inline(each['description'])}</td>"
        f"<td>{_answers(each.get('content', {}))}</td></tr>"
        for status, each in one["responses"].items()
    )
    parts.append(f"<table><tr><th>status</th><th></th><th>data</th></tr>{answers}</table>")
    return "".join(parts)


def _answers(content: Any) -> str:
    said = []
    for media_type, what in content.items():
        data = what.get("schema", {}).get("properties", {}).get("data")
        if data is not None:
            said.append(_type(data))
        elif media_type != "application/json":
            said.append(f"<code>{escape(media_type)}</code>")
    return ", ".join(said)


def _schema(schema: Any) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(what)}</td></tr>"
        for name, what in schema.get("properties", {}).items()
    )
    return f"{_prose(schema.get('description', ''))}<table>{rows}</table>"


def _type(schema: Any) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for word in ("anyOf", "allOf", "oneOf"):
        if word in schema:
            return (" or " if word != "allOf" else " and ").join(map(_type, schema[word]))
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum") or [schema["const"]]
        return " or ".join(f"<code>{escape(encode(one).decode())}</code>" for one in choices)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = schema.get("type", "anything")
    kinds = kind if isinstance(kind, list) else [kind]
    return escape(" or ".join(kinds) + (f" ({schema['format']})" if "format" in schema else ""))


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    """Backticks are code; everything else is itself."""
    parts = text.split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )
