"""
What schemathesis is told beside the document: real names, so that it meets real data, and that
every error is the envelope. Loaded by its command line (`SCHEMATHESIS_HOOKS`).
"""

import json
import os
import random
import re
from typing import Any

import schemathesis

KNOWN: dict[str, list[str]] = json.loads(os.environ["KNOWN_NAMES"])
CHOOSING = random.Random(int(os.environ["KNOWN_SEED"]))


@schemathesis.hook
def before_call(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """In three of four well-formed requests each name that we know is one of a real thing."""
    if case.meta is None or case.meta.generation.mode is not schemathesis.GenerationMode.POSITIVE:
        return
    for given in (case.path_parameters, case.query):
        for name in given or ():
            if KNOWN.get(name) and CHOOSING.random() < 0.75:
                given[name] = CHOOSING.choice(KNOWN[name])
    if isinstance(case.body, dict):
        for name in set(case.body) & KNOWN.keys():
            if KNOWN[name] and isinstance(case.body[name], str):
                case.body[name] = CHOOSING.choice(KNOWN[name])


@schemathesis.check
def answers_are_envelopes(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Errors always, with a code and a trace; and every answer names its request."""
    assert response.headers.get("x-request-id"), "no X-Request-Id"
    if response.status_code == 304 or response.request.method == "HEAD":
        assert not response.content, "a body where there is none"
        return
    if response.status_code < 400:
        return
    assert response.headers["content-type"][0] == "application/json", "an error that is no JSON"
    body = json.loads(response.content)
    assert set(body) == {"data", "error", "meta"}, "an error that is no envelope"
    assert body["data"] is None, "an error with data"
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "details"}
    assert re.fullmatch("[0-9a-f]{32}", body["meta"]["traceId"]), "an error without a trace"
    text = response.content.decode()
    assert not re.search(r"Traceback|asyncpg|SELECT |psql|/site-packages/", text), (
        "too much is said"
    )
