"""Tables of a source, read strictly: nothing is guessed and nothing is ignored."""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.providers.base import ConfigurationError

Path = tuple[str | int, ...]


def read_table(value: object, path: Path, known: Iterable[str], of: str = "") -> Mapping[str, Any]:
    """
    The table at `path`; `of` what it is that these keys are `known` of.

    Raises:
        ConfigurationError: it is no table, or has other keys.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(path, "must be a table")
    names = list(known)
    for name in value:
        if name not in names:
            where = f"here, of {of}" if of else "here"
            raise ConfigurationError(
                (*path, name), f"unknown key; known {where}: {', '.join(names)}"
            )
    return value


class Table:
    """
    One table at `path`. Each key that is read is checked; what is none of `known` is an error.

    Raises:
        ConfigurationError: it is no table, or has other keys.
    """

    def __init__(self, value: object, path: Path, known: Iterable[str]) -> None:
        self.path = path
        self._values = read_table(value, path, sorted(known))

    def at(self, name: str) -> Path:
        """The path of a key."""
        return (*self.path, name)

    def get(self, name: str) -> object:
        """A value of any kind, or None."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str | None:
        """Text that is not empty."""
        value = self._values.get(name, default)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        raise ConfigurationError(self.at(name), "must be text, and not empty")

    def characters(self, name: str, default: str = "") -> str:
        """Printable ASCII, blanks included, or nothing at all."""
        value = self._values.get(name, default)
        if isinstance(value, str) and value.isascii() and (value.isprintable() or not value):
            return value
        raise ConfigurationError(self.at(name), "must be text in printable ASCII")

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        """One of `known`, the first where nothing is said."""
        value = self._values.get(name, known[0])
        if value not in known:
            choices = " or ".join(f'"{one}"' for one in known)
            raise ConfigurationError(self.at(name), f"{value!r} is not {choices}")
        return str(value)

    def header(self, name: str, default: str | None = None) -> str | None:
        """A header's name, in lower case."""
        value = self.text(name, default)
        return None if value is None else header_name(value, self.at(name))


def header_name(text: str, path: Path) -> str:
    """
    A header's name as the gateway has it: in lower case.

    Raises:
        ConfigurationError: no header can be called so.
    """
    name = text.strip().lower()
    if not name or not name.isascii() or not all(c.isalnum() or c in _TOKEN for c in name):
        raise ConfigurationError(path, f"{text!r} is no header's name")
    return name


#: RFC 9110, 5.6.2, beside letters and digits.
_TOKEN = frozenset("!#$%&'*+-.^_`|~")
