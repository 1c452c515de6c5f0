"""Where the keys of a TOML document stand."""

import random
import string
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.declaration.lines import Lines
from workers.declaration.tables import KeyPath, shown_path

WRITTEN = '''\
# a comment with [brackets] and "quotes"
mode = "live"

[sources.stripe]  # another
provider = "stripe"
secrets = [
    "env:ONE",  # a ] in a comment
    "a ] and a , and a # in a string", 'C:\\',

    """
long \\""" ]
""",
    "last",
]
settings = { grants_from = "summary", "disputes" = 'keep' }

[plans."v1.pro".features]
seats = 10
[plans."v1.pro"]
products = ["stripe:prod_1",
  "stripe:prod_2"]
"gr\\u0061ce" = "7d"
[plans]
basic.products = []
basic.features.seats = 1
basic.features."a b" . c = {}
'''


def test_every_key_has_its_line() -> None:
    lines = Lines.of("sluice.toml", WRITTEN)
    assert {shown_path(path): line for path, line in lines.by_path.items()} == {
        "mode": 2,
        "sources": 4,
        "sources.stripe": 4,
        "sources.stripe.provider": 5,
        "sources.stripe.secrets": 6,
        "sources.stripe.secrets[0]": 7,
        "sources.stripe.secrets[1]": 8,
        "sources.stripe.secrets[2]": 8,
        "sources.stripe.secrets[3]": 10,
        "sources.stripe.secrets[4]": 13,
        "sources.stripe.settings": 15,
        "sources.stripe.settings.grants_from": 15,
        "sources.stripe.settings.disputes": 15,
        "plans": 23,
        'plans."v1.pro"': 19,
        'plans."v1.pro".features': 17,
        'plans."v1.pro".features.seats': 18,
        'plans."v1.pro".products': 20,
        'plans."v1.pro".products[0]': 20,
        'plans."v1.pro".products[1]': 21,
        'plans."v1.pro".grace': 22,
        "plans.basic": 24,
        "plans.basic.products": 24,
        "plans.basic.features": 25,
        "plans.basic.features.seats": 25,
        'plans.basic.features."a b"': 26,
        'plans.basic.features."a b".c': 26,
    }


def test_what_is_missing_stands_where_its_table_does() -> None:
    lines = Lines.of("sluice.toml", WRITTEN)
    assert lines.place_of(("sources", "stripe", "livemode")) == "sluice.toml, line 4"
    assert lines.place_of(("plans", "basic", "products", 3)) == "sluice.toml, line 24"
    assert lines.place_of(("features", "seats")) == "sluice.toml"
    assert lines.place_of(()) == "sluice.toml"
    assert Lines().place_of(("mode",)) == ""


def test_windows_line_ends_are_line_ends() -> None:
    text = WRITTEN.replace("\n", "\r\n")
    assert Lines.of("f", text).by_path == Lines.of("f", WRITTEN).by_path


def test_a_path_is_shown_on_one_line_whatever_its_keys_hold() -> None:
    assert shown_path(("a", "b c", 'd"e', "", "f\n\x9b", "é", 3)) == (
        'a."b c"."d\\"e".""."f\\n\\u009b"."é"[3]'
    )


# Against the standard library's reader ----------------------------------------------------------


def paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Every key path of a document that was read."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found: set[KeyPath] = set()
    for key, inner in pairs:
        found.add((*path, key))
        if isinstance(inner, dict | list):
            found |= paths(inner, (*path, key))
    return found


KEYS = st.text(string.ascii_lowercase + "-_. \"'#[]=\\é\t", max_size=4)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.text("ab\"'\\[]{},=#\n\t é", max_size=8),
    st.dates(),
    st.datetimes(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


class Writer:
    """Writes a document in one of the many ways there are, and notes where each key stands."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    def put(self, text: str) -> None:
        self.text += text

    def note(self, path: KeyPath) -> None:
        self.lines[path] = self.text.count("\n") + 1

    def document(self, tables: dict[str, Any], path: KeyPath = ()) -> None:
        """Scalars first, then tables, each under a header or dotted."""
        for key, value in tables.items():
            if not isinstance(value, dict):
                self.pair(key, value, path)
        for key, value in tables.items():
            if isinstance(value, dict):
                self.gap()
                self.put("[" + ".".join(self.key(str(part)) for part in (*path, key)) + "]")
                self.note((*path, key))
                self.put(self.rng.choice(["\n", " # [x] = 'y'\n"]))
                self.document(value, (*path, key))

    def pair(self, key: str, value: Any, path: KeyPath) -> None:
        self.gap()
        own = (*path, key)
        self.note(own)
        self.put(self.key(key))
        while isinstance(value, dict) and len(value) == 1 and self.rng.random() < 0.5:
            ((key, value),) = value.items()
            own = (*own, key)
            self.note(own)
            self.put(self.rng.choice([".", " . "]) + self.key(key))
        self.put(self.rng.choice(["=", " = ", " =\t"]))
        self.value(value, own)
        self.put(self.rng.choice(["\n", '  # ] } "\n']))

    def gap(self) -> None:
        self.put(self.rng.choice(["", "", "\n", "# a = 1\n", "  \t\n", " "]))

    def key(self, key: str) -> str:
        bare = key and set(key) <= set(string.ascii_lowercase + "-_")
        if bare and self.rng.random() < 0.7:
            return key
        return self.quoted(key)

    def quoted(self, text: str) -> str:
        if self.rng.random() < 0.4 and not set(text) & set("'\n"):
            return f"'{text}'"
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'

    def string(self, text: str) -> str:
        way = self.rng.random()
        if way < 0.3 and "'''" not in text and not text.endswith("'''"):
            return f"'''{text}'''" if not text.startswith("\n") else f"'''\n{text}'''"
        if way < 0.6 and '"""' not in text:
            start = "\n" if text.startswith("\n") else ""
            return f'"""{start}' + text.replace("\\", "\\\\") + '"""'
        return self.quoted(text)

    def value(self, value: Any, path: KeyPath) -> None:
        if isinstance(value, dict):
            self.put("{")
            for number, (key, inner) in enumerate(value.items()):
                self.put(", " if number else " ")
                self.note((*path, key))
                self.put(self.key(key) + " = ")
                self.value(inner, (*path, key))
            self.put(" }")
        elif isinstance(value, list):
            self.put("[")
            for number, inner in enumerate(value):
                self.put("," if number else "")
                self.put(self.rng.choice(["", " ", "\n", " # ]\n", "\n\n  "]))
                self.note((*path, number))
                self.value(inner, (*path, number))
            self.put(self.rng.choice(["", ",", ",\n", " "]) if value else "\n")
            self.put("]")
        elif isinstance(value, str):
            self.put(self.string(value))
        elif isinstance(value, bool):
            self.put(str(value).lower())
        elif isinstance(value, int | float):
            self.put(repr(value))
        else:
            self.put(value.isoformat())


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4), st.integers(0, 2**32))
def test_the_same_keys_as_the_reader_finds_each_where_it_was_written(
    document: dict[str, Any], seed: int
) -> None:
    writer = Writer(random.Random(seed))
    writer.document(document)
    read = tomllib.loads(writer.text)
    assert read == document
    lines = Lines.of("f", writer.text).by_path
    assert lines.keys() == paths(read)
    assert lines == writer.lines


def test_arrays_of_tables_and_tables_within_them() -> None:
    text = (
        "[[a]]\nb = 1\n[[a.c]]\nd = 1\n[[a.c]]\nd = 2\n[a.e]\nf = 1\n"
        "[[a]]\n[a.e]\nf = 2\n[[a.c]]\n[a.c.g]\n"
    )
    lines = Lines.of("f", text).by_path
    assert lines.keys() == paths(tomllib.loads(text))
    assert lines["a", 0, "c", 1, "d"] == 6
    assert lines["a", 1] == 9
    assert lines["a", 1, "e", "f"] == 11
    assert lines["a", 1, "c", 0, "g"] == 13
