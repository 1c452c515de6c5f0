"""
The body as a document: what expressions are evaluated over.

JSON, unless the content type says that it is a form. A form is {"field": "value"}; one that is
nothing but a field `payload` with JSON in it is that JSON, as GitHub and Slack send it.
Source: url.spec.whatwg.org, application/x-www-form-urlencoded (read 2026-11).
"""

import re
from typing import Any

import msgspec

from shared.domain.events import Headers
from shared.providers.base import PayloadError, header

_FORM = "application/x-www-form-urlencoded"
_ENVELOPE = "payload"
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


def read_document(headers: Headers, body: bytes) -> Any:
    """
    Raises:
        PayloadError: it is neither JSON nor a form.
    """
    content_type = header(headers, "content-type") or ""
    if content_type.partition(";")[0].strip().lower() == _FORM:
        return _read_form(body)
    return _read_json(body)


def _read_json(body: bytes | str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise PayloadError(f"the body is not JSON: {error}") from None


def _read_form(body: bytes) -> Any:
    fields: dict[str, str] = {}
    try:
        for pair in body.split(b"&"):
            name, _, value = pair.partition(b"=")
            if pair:
                fields[_unescaped(name)] = _unescaped(value)
    except UnicodeDecodeError:
        raise PayloadError("the body is a form that is not UTF-8") from None
    if fields.keys() == {_ENVELOPE} and fields[_ENVELOPE][:1] in ("{", "["):
        return _read_json(fields[_ENVELOPE])
    return fields


def _unescaped(text: bytes) -> str:
    spaced = text.replace(b"+", b" ")
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), spaced).decode()
