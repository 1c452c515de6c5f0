"""JSON Schema: what a source's rows must look like. Drafts 4 to 2020-12, by `$schema`."""

from itertools import islice
from typing import Any, NamedTuple

from jsonschema_rs import FancyRegexOptions, ValidationError, validator_for

from shared.providers.base import ConfigurationError
from shared.providers.sender.tables import Path

#: A value may fail in more ways than anybody reads.
MOST_VIOLATIONS = 100

#: The library makes all of a value's violations before it gives the first one, each with its whole
#: path, and of alternatives those of each. So they are looked for in what weighs this much only: a
#: MiB of numbers would take twelve seconds and 800 MiB, a long key above them all memory there is.
_HEAVIEST = 256 << 10
_WEIGHT_OF_VALUE = 32
#: Of one text and one pattern that looks around or back; no thread runs meanwhile. The library's
#: own million is seconds.
_BACKTRACKS = 100_000


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
            self._validator = validator_for(
                document,
                offline=True,
                validate_formats=True,
                pattern_options=FancyRegexOptions(backtrack_limit=_BACKTRACKS),
            )
        except (ValidationError, ValueError) as error:
            text = str(error).partition("\n")[0]
            raise ConfigurationError(path, f"is no JSON Schema that can be used: {text}") from None

    def violations(self, value: Any) -> list[Violation]:
        """
        All of them, up to `MOST_VIOLATIONS`; empty where the value fits. One for all of a value
        that is too large to look for them, or nested too deeply.
        """
        try:
            if self._validator.is_valid(value):
                return []
            if _is_heavy(value):
                return [Violation("", "does not fit the schema, and is too large to say where")]
            errors = islice(self._validator.iter_errors(value), MOST_VIOLATIONS)
        except ValueError:  # of more than 255 levels, whatever the schema says
            return [Violation("", "is nested too deeply to be checked")]
        return [Violation(_pointer_of(one.instance_path), one.message[:500]) for one in errors]


def _pointer_of(steps: list[str | int]) -> str:
    """RFC 6901."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def _is_heavy(value: Any) -> bool:
    """Whether the paths to all that is in a value are too much to be written down."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    weight = 0
    while waiting:
        one, length = waiting.pop()
        if isinstance(one, dict):
            inside = [(inner, length + len(key) + 1) for key, inner in one.items()]
        elif isinstance(one, list):
            inside = [(inner, length + 6) for inner in one]
        else:
            continue
        weight += sum(_WEIGHT_OF_VALUE + longer for _, longer in inside)
        if weight > _HEAVIEST:
            return True
        waiting += inside
    return False
