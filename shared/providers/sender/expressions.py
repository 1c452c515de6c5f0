"""
Where something lies in a request: in a header, or in the body by a JMESPath expression.

JMESPath finds and reshapes, and can neither loop for ever nor touch anything but the document it
is given. Its own functions are joined by `lower(text)` and `split(text, separator)`. Source:
jmespath.org/specification.html (read 2026-11).
"""

from collections.abc import Iterator
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, PayloadError, header
from shared.providers.sender.tables import Path

_HEADER = "header:"


class _Functions(Functions):
    """JMESPath's functions and ours; by their names."""

    @signature({"types": ["string"]})
    def _func_lower(self, text: str) -> str:
        return text.lower()

    @signature({"types": ["string"]}, {"types": ["string"]})
    def _func_split(self, text: str, separator: str) -> list[str]:
        return text.split(separator)


_OPTIONS = jmespath.Options(custom_functions=_Functions())


class Expression:
    """
    A JMESPath expression over the body's document. `text` is as it was written.

    Raises:
        ConfigurationError: with `path`, where it is none.
    """

    def __init__(self, text: str, path: Path) -> None:
        self.text = text
        try:
            self._parsed = jmespath.compile(text)
            problems = [_wrong_with(node) for node in _nodes(self._parsed.parsed)]
        except JMESPathError as error:
            raise ConfigurationError(path, f"not a JMESPath expression: {_plain(error)}") from None
        except RecursionError:
            raise ConfigurationError(path, "nested too deeply") from None
        for problem in filter(None, problems):
            raise ConfigurationError(path, problem)
        # What most expressions are. JMESPath takes ten times as long to find the same.
        self._fields = _fields_of(self._parsed.parsed)

    def find(self, document: Any) -> Any:
        """
        What it finds; None where there is nothing.

        Raises:
            PayloadError: it cannot be evaluated over this document.
        """
        if self._fields is not None:
            found = document
            for name in self._fields:
                found = found.get(name) if isinstance(found, dict) else None
            return found
        try:
            return self._parsed.search(document, options=_OPTIONS)
        except (JMESPathError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
            raise PayloadError(f"{self.text}: {_plain(error)}") from None


def _fields_of(node: Any) -> tuple[str, ...] | None:
    """The names of `a.b.c`; None of every other expression."""
    if node["type"] == "field":
        return (node["value"],)
    if node["type"] != "subexpression":
        return None
    fields: tuple[str, ...] = ()
    for child in node["children"]:
        names = _fields_of(child)
        if names is None:
            return None
        fields += names
    return fields


def _nodes(node: Any) -> Iterator[Any]:
    """All parts of a parsed expression."""
    yield node
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _nodes(child)


def _wrong_with(node: Any) -> str | None:
    """What JMESPath itself would find out when an event is there, or never."""
    children = node["children"]
    if node["type"] == "subexpression" and children[0]["type"] == "not_expression":
        # It binds tighter than the dot, and what it gives has no fields: always nothing.
        return "!a.b means (!a).b, which is never anything; write !(a.b)"
    if node["type"] != "function_expression":
        return None
    function, known = node["value"], _Functions.FUNCTION_TABLE
    if function not in known:
        return f"no function {function}(); known: {', '.join(sorted(known))}"
    wanted = known[function]["signature"]
    if len(children) == len(wanted) or (len(children) > len(wanted) and wanted[-1].get("variadic")):
        return None
    return f"{function}() takes {len(wanted)} arguments, not {len(children)}"


def _plain(error: Exception) -> str:
    """On one line. It may quote what was sent, and is stored: no NUL, no lone surrogate."""
    text = " ".join(str(error).replace("\0", " ").split())[:500]
    return text.encode("utf-8", "backslashreplace").decode()


class Location:
    """
    "header:NAME", or an expression over the body.

    Raises:
        ConfigurationError: with `path`, where it is neither.
    """

    def __init__(self, text: object, path: Path) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError(path, 'must be "header:NAME" or a JMESPath expression')
        self.text = text
        self.header: str | None = None
        self.expression: Expression | None = None
        if text.startswith(_HEADER):
            self.header = text.removeprefix(_HEADER).strip().lower()
            if not self.header:
                raise ConfigurationError(path, "names no header")
        else:
            self.expression = Expression(text, path)

    def find(self, headers: Headers, document: Any) -> Any:
        """
        What lies there; None where there is nothing. A header is text.

        Raises:
            PayloadError: see `Expression.find`.
        """
        if self.header is not None:
            return header(headers, self.header)
        assert self.expression is not None
        return self.expression.find(document)


def is_true(found: Any) -> bool:
    """As JMESPath has it: false, null and whatever is empty are not; 0 is."""
    return found is not None and found is not False and found not in ("", [], {})
