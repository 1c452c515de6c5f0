"""The document has every route of the application, and nothing else; and it is OpenAPI 3.1."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, cast

import httpx
import jsonschema_rs
import pytest
import schemathesis
from starlette.applications import Starlette
from starlette.routing import Route

from gateway.api import documents
from gateway.api.openapi import document, plain
from gateway.api.receipts import RECEIPTS
from gateway.api.routes import OPERATIONS
from gateway.app import Deps, create_app
from gateway.envelope import STATUS_OF

#: Routes that are no part of the API: the document itself.
NOT_IN_IT = {documents.OPENAPI, documents.DOCS}


@pytest.fixture(scope="module")
def app() -> Any:
    """The application without anything behind it: routes and documents ask nobody."""
    something = cast(Any, object())
    return create_app(Deps(ingress=something, ingest=something, api=something))


def routes(app: Any) -> list[Route]:
    inner = cast(Starlette, app._app)
    return [route for route in inner.routes if isinstance(route, Route)]


async def get(app: Any, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.fixture(scope="module")
def found(app: Any) -> Any:
    return asyncio.run(get(app, documents.OPENAPI)).json()


def test_every_route_is_in_the_document_and_the_other_way_round(app: Any, found: Any) -> None:
    """Its paths and methods are those that the application answers."""
    answered = {
        (plain(route.path), method)
        for route in routes(app)
        if route.path not in NOT_IN_IT
        for method in (route.methods or ()) - {"HEAD"}
    }
    described = {
        (path, method.upper()) for path, methods in found["paths"].items() for method in methods
    }
    assert described == answered
    assert len(described) > 8


def test_a_missing_route_would_be_noticed(app: Any) -> None:
    """The document is made of the operations: one that is left out is not described."""
    less = document(OPERATIONS[1:], {(one.method, one.path) for one in RECEIPTS}, "0")
    assert plain(OPERATIONS[0].path) not in less["paths"]


def test_the_document_is_openapi_3_1(found: Any) -> None:
    """By the official schema, which schemathesis carries, and every schema is one itself."""
    schemathesis.openapi.from_dict(found).validate()
    for schema in found["components"]["schemas"].values():
        assert jsonschema_rs.validator_for({**schema, "components": found["components"]})
    assert found["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere(found: Any) -> None:
    """And nothing is described that nobody refers to."""
    referred: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                referred.add(node["$ref"])
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(found)
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "headers")
        for name in found["components"][kind]
    }
    assert referred <= there
    assert {one for one in there if "/schemas/" in one} <= referred


def test_no_two_paths_have_one_shape(found: Any) -> None:
    """By OpenAPI they would be identical, whatever their parameters are called."""
    shapes = [re.sub(r"\{\w+\}", "{}", path) for path in found["paths"]]
    assert len(shapes) == len(set(shapes))


def test_operations_have_names_of_their_own(found: Any) -> None:
    """Generated clients have one function for each."""
    names = [one["operationId"] for methods in found["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))
    assert all(one["description"].strip() for m in found["paths"].values() for one in m.values())


def test_every_code_that_is_named_exists() -> None:
    """An operation's own errors are of the one table."""
    named = {code for one in (*OPERATIONS, *RECEIPTS) for code in one.errors}
    assert named <= STATUS_OF.keys()


def test_secured_is_what_wants_a_token(found: Any) -> None:
    """Operations want a bearer token; what providers send proves itself otherwise."""
    theirs = {one.name for one in RECEIPTS}
    for methods in found["paths"].values():
        for one in methods.values():
            wanted = [] if one["operationId"] in theirs else [{"token": []}]
            assert one["security"] == wanted, one["operationId"]


async def test_both_documents_can_be_had_again(app: Any) -> None:
    """304 where nothing changed."""
    for path in (documents.OPENAPI, documents.DOCS):
        first = await get(app, path)
        assert first.status_code == 200
        again = await get(app, path, if_none_match=first.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")


async def test_the_page_has_everything_and_needs_nothing(app: Any, found: Any) -> None:
    """Every operation and type is on it; it loads nothing and runs nothing."""
    answer = await get(app, documents.DOCS)
    page = answer.text
    for path, methods in found["paths"].items():
        assert path in page
        assert all(f'id="{one["operationId"]}"' in page for one in methods.values())
    assert all(f'id="schema-{name}"' in page for name in found["components"]["schemas"])
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not any(word in page for word in ("<script", "src=", "http://", "https://", "@import"))


def test_examples_of_bodies_are_what_the_types_say(found: Any) -> None:
    """The types are strict where requests are read, as the document says they are."""
    questions = found["components"]["schemas"]["Questions"]
    assert questions["additionalProperties"] is False
    assert questions["properties"]["features"]["maxItems"] == 100
    limit = next(
        one
        for one in found["paths"]["/api/v1/tenants"]["get"]["parameters"]
        if one["name"] == "limit"
    )
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
    assert "null" not in json.dumps(found["paths"]["/api/v1/tenants"]["get"]["parameters"])
    created = found["components"]["schemas"]["Me"]["properties"]["createdAt"]
    assert created == {"type": "string", "format": "date-time"}


def test_every_operation_has_an_example() -> None:
    """docs/api.md has a section for each, with a request that can be pasted into a shell."""
    text = (Path(__file__).parents[2] / "docs/api.md").read_text()
    sections = dict(
        re.findall(r"^### `(\w+ [^`]+)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    )
    wanted = {f"{one.method} {plain(one.path)}" for one in OPERATIONS}
    assert wanted == sections.keys(), f"missing: {wanted - sections.keys()}"
    for name, section in sections.items():
        method, path = name.split(" ", 1)
        curl = re.search(r"^curl .*?(?<!\\)$", section, re.MULTILINE | re.DOTALL)
        assert curl is not None, name
        fixed = re.sub(r"\{\w+\}", r"[^/\\s\"]+", path)
        assert re.search(rf"\$SLUICE{fixed}(?=[\s\"?]|$)", curl[0]), name
        assert ("-d " in curl[0] or "-X POST" in curl[0]) == (method == "POST"), name
