"""JSON Schema: what a source's rows must look like. Drafts 4 to 2020-12, by `$schema`."""

from typing import Any, NamedTuple

from jsonschema_rs import ValidationError, validator_for

from shared.providers.base import ConfigurationError
from shared.providers.sender.tables import Path

#: A value may fail in more ways than anybody reads.
MOST_VIOLATIONS = 100


class Violation(NamedTuple):
    """What is wrong at one place of a value: a JSON pointer into it, "" for all of it."""

    pointer: str
    message: str


class Schema:
    """
    The schema at `path` of the configuration. It can refer to nothing outside of itself.

    Raises:
        ConfigurationError: it is none.
    """

    def __init__(self, document: object, path: Path) -> None:
        if not isinstance(document, dict | bool):
            raise ConfigurationError(path, "is no JSON Schema: an object, true or false")
        try:
            self._validator = validator_for(document, offline=True)
        except (ValidationError, ValueError) as error:
            text = str(error).partition("\n")[0]
            raise ConfigurationError(path, f"is no JSON Schema that can be used: {text}") from None

    def violations(self, value: Any) -> list[Violation]:
        """All of them, up to `MOST_VIOLATIONS`; empty where the value fits."""
        found = []
        for error in self._validator.iter_errors(value):
            found.append(Violation(_pointer_of(error.instance_path), error.message[:500]))
            if len(found) == MOST_VIOLATIONS:
                break
        return found


def _pointer_of(steps: list[str | int]) -> str:
    """RFC 6901."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)
