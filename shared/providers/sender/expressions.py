"""
Where something lies in a request: in a header, or in the body by a JMESPath expression.

JMESPath finds and reshapes, and can neither loop for ever nor touch anything but the document it
is given. Source: jmespath.org/specification.html (read 2026-11).
"""

from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, PayloadError, header

Path = tuple[str | int, ...]

_HEADER = "header:"


class Expression:
    """A JMESPath expression over the body's document. `text` is as it was written."""

    def __init__(self, text: str, path: Path) -> None:
        self.text = text
        try:
            self._parsed = jmespath.compile(text)
        except JMESPathError as error:
            problem = " ".join(str(error).split())
            raise ConfigurationError(path, f"not a JMESPath expression: {problem}") from None

    def find(self, document: Any) -> Any:
        """
        What it finds; None where there is nothing.

        Raises:
            PayloadError: it cannot be evaluated over this document.
        """
        try:
            return self._parsed.search(document)
        except (JMESPathError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
            raise PayloadError(f"{self.text}: {' '.join(str(error).split())}") from None


class Location:
    """
    "header:NAME", or an expression over the body.

    Raises:
        ConfigurationError: with `path`, where it is neither.
    """

    def __init__(self, text: object, path: Path) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError(path, 'must be "header:NAME" or a JMESPath expression')
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
