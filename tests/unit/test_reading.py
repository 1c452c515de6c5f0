"""Bodies become rows: whole, cut anywhere, taken up again anywhere, and damaged."""

import asyncio
import gzip
import json
import random
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import zstandard

from shared.artifacts import ArtifactDamaged
from workers.jobs import arrays
from workers.jobs.reading import Reading, format_of_file, reader_for
from workers.jobs.rows import LONGEST_ROW_BYTES, Damaged, Row

Seen = list[tuple[int, Any]]
NDJSON, CSV, JSON = "application/x-ndjson", "text/csv; charset=utf-8", "application/json"
FORM = 'multipart/form-data; boundary="x y"'


def part(content: str, media_type: str = "", name: str | None = "f") -> str:
    disposition = 'form-data; name="a"' + (f'; filename="{name}"' if name else "")
    typed = f"Content-Type: {media_type}\r\n" if media_type else ""
    return f"--x y\r\nContent-Disposition: {disposition}\r\n{typed}\r\n{content}\r\n"


FORM_BODY = (
    part("ignored", name=None)
    + part('{"a":1}\n\n{"a":2}', NDJSON, "one")
    + part("id\n7\n8,9\n10\n", "application/octet-stream", "two.CSV")
    + part("a,a\n1,2\n", CSV, "three")
    + part("<a/>", "text/xml", "four")
    + part('[{"a":3}, {"a":4}]', JSON, "five")
    + "--x y--\r\n"
)

#: Content type, body, and its rows: (line, value or code).
BODIES: dict[str, tuple[str, bytes, Seen]] = {
    "lines": (
        NDJSON,
        b'\xef\xbb\xbf{"a":"\xc3\xa9"}\r\n\n  \n[1]\n{"b"\n\xff\n{"c":2}',
        [(1, {"a": "é"}), (4, [1]), (5, "not_json"), (6, "not_json"), (7, {"c": 2})],
    ),
    "sheet": (
        CSV,
        b'\xef\xbb\xbfid, name\r\n1,"a ""b"" c"\r\n\r\n2,"two\nlines, \xc3\xa9"\n3\n'
        b'4,"x"y\n5,\xff\n6,"six"\n7,open"\n8,"never\nclosed\n',
        [
            (2, {"id": "1", "name": 'a "b" c'}),
            (4, {"id": "2", "name": "two\nlines, é"}),
            (6, "ragged_row"),
            (7, "bad_csv"),
            (8, "undecodable"),
            (9, {"id": "6", "name": "six"}),
            (10, {"id": "7", "name": 'open"'}),
            (11, "bad_csv"),
        ],
    ),
    "array": (
        JSON,
        b'\xef\xbb\xbf [ {"a":"]\\",{"} ,12 , [3,[]],"\xf0\x9f\x98\x80", null ,{"n":1e3}\n] \n',
        [(1, {"a": ']",{'}), (2, 12), (3, [3, []]), (4, "😀"), (5, None), (6, {"n": 1000.0})],
    ),
    "empty array": (JSON, b" [ ] ", []),
    "object": (JSON, b'{"a": [1, 2]} ', [(1, {"a": [1, 2]})]),
    "nothing": (NDJSON, b"", []),
    "form": (
        FORM,
        FORM_BODY.encode(),
        [
            (1, {"a": 1}), (3, {"a": 2}), (5, {"id": "7"}), (6, "ragged_row"), (7, {"id": "10"}),
            (8, "bad_header"), (9, "unsupported_part"), (10, {"a": 3}), (11, {"a": 4}),
        ],
    ),
}  # fmt: skip
#: The same, of which what comes last cannot be read: the rows before it, and the code.
BROKEN: dict[str, tuple[str, bytes, int, str]] = {
    "cut array": (JSON, b'[{"a":1},{"a":2},{"a":', 2, "damaged_document"),
    "unclosed array": (JSON, b"[1,2", 1, "damaged_document"),
    "comma at the end": (JSON, b"[1,2,]", 2, "damaged_document"),
    "no comma": (JSON, b"[1 2]", 0, "damaged_document"),
    "more behind it": (JSON, b"[1,2] {}", 2, "damaged_document"),
    "not a number": (JSON, b"[1,NaN]", 1, "damaged_document"),
    "no text": (JSON, b'[1,"\xff"]', 1, "undecodable"),
    "text cut short": (JSON, b'[1,2,"\xc3', 2, "damaged_document"),
    "nothing at all": (JSON, b"  ", 0, "damaged_document"),
    "two values": (JSON, b"{} {}", 0, "damaged_document"),
    "too deep": (JSON, b"[1," + b"[" * 100_000, 1, "damaged_document"),
    "no names": (CSV, b"a,,c\n1,2,3\n", 0, "bad_header"),
    "the same name": (CSV, b"a,a\n", 0, "bad_header"),
    "names that are no text": (CSV, b"a\xff\n1\n", 0, "bad_header"),
    "no end": (FORM, FORM_BODY.removesuffix("--x y--\r\n").encode(), 9, "bad_multipart"),
    "no part": (FORM, b"what?", 0, "bad_multipart"),
}


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def opened(
    media_type: str,
    chunks: AsyncIterator[bytes],
    place: Mapping[str, Any] | None = None,
    **more: Any,
) -> Reading:
    at = json.loads(json.dumps(place or {}))
    reader = reader_for(media_type, more.pop("find", None), at)
    return Reading(chunks, more.pop("encoding", None), more.pop("largest", 1 << 40), reader, at)


def shown(row: Row) -> tuple[int, Any]:
    if row.problem is not None:
        return row.line, row.problem.code
    if row.encoded is not None:
        try:
            return row.line, json.loads(row.encoded)
        except ValueError:
            return row.line, "not_json"
    return row.line, row.value


async def read(reading: Reading, most: int = 10**9) -> Seen:
    rows: Seen = []
    while len(rows) < most and (row := await reading.take()) is not None:
        rows.append(shown(row))
    return rows


def cuts(body: bytes, at: int) -> tuple[bytes, bytes]:
    return body[:at], body[at:]


@pytest.mark.parametrize("name", BODIES)
async def test_rows_however_the_body_is_cut(name: str) -> None:
    media_type, body, rows = BODIES[name]
    assert await read(opened(media_type, pieces(body))) == rows
    for at in range(len(body) + 1):
        assert await read(opened(media_type, pieces(*cuts(body, at)))) == rows, at
    single = [body[at : at + 1] for at in range(len(body))]
    assert await read(opened(media_type, pieces(*single))) == rows


@pytest.mark.parametrize("name", BODIES)
async def test_a_reading_goes_on_where_another_one_was(name: str) -> None:
    media_type, body, rows = BODIES[name]
    for number in range(1, len(rows) + 1):
        first = opened(media_type, pieces(body))
        assert await read(first, number) == rows[:number]
        for at in (0, 1, len(body) // 2, len(body)):
            again = opened(media_type, pieces(*cuts(body, at)), first.place)
            assert await read(again) == rows[number:], (number, at)
        by_one = opened(media_type, pieces(body))
        seen: Seen = []
        while row := await by_one.take():
            seen.append(shown(row))
            by_one = opened(media_type, pieces(body), by_one.place)
        assert seen == rows


@pytest.mark.parametrize("name", BROKEN)
async def test_what_comes_before_the_damage_is_read(name: str) -> None:
    media_type, body, good, code = BROKEN[name]
    for at in (0, *range(max(0, len(body) - 30), len(body))):
        reading = opened(media_type, pieces(*cuts(body, at)))
        for _ in range(good):
            assert await reading.take() is not None
        for _ in range(2):
            with pytest.raises(Damaged) as raised:
                await reading.take()
            assert raised.value.code == code, raised.value


async def test_a_row_that_is_too_long_is_one_failure() -> None:
    long = b'{"a":"' + b"x" * LONGEST_ROW_BYTES + b'"}'
    body = b'{"a":1}\n' + long + b'\n{"a":2}\n' + long
    rows = [(1, {"a": 1}), (2, "row_too_long"), (3, {"a": 2}), (4, "row_too_long")]
    rng = random.Random(1)
    for _ in range(20):
        at = sorted(rng.randrange(len(body)) for _ in range(3))
        chunks = [body[a:b] for a, b in zip([0, *at], [*at, len(body)], strict=True)]
        reading = opened(NDJSON, pieces(*chunks))
        assert await read(reading) == rows
        first = opened(NDJSON, pieces(*chunks))
        await read(first, 2)
        assert await read(opened(NDJSON, pieces(body), first.place)) == rows[2:]


async def test_a_quote_that_is_never_closed_swallows_no_more_than_a_row() -> None:
    line = b"2," + b"x" * 1000 + b"\n"
    body = b'id,name\n1,"open\n' + line * 3000 + b"3,last\n"
    for size in (len(body), 100_000, 4096):
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        rows = await read(opened(CSV, pieces(*chunks)))
        assert rows[0] == (2, "row_too_long")
        assert rows[-1] == (3003, {"id": "3", "name": "last"})
        # The line that made it too long was its last one.
        swallowed = 3 + LONGEST_ROW_BYTES // len(line)
        assert [number for number, _ in rows[1:]] == list(range(swallowed + 1, 3004))


async def test_an_element_that_is_too_long_ends_the_reading() -> None:
    body = b'[1,"' + b"x" * LONGEST_ROW_BYTES + b'",2]'
    for size in (len(body), 100_000):
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        reading = opened(JSON, pieces(*chunks))
        assert await reading.take() == Row(1, 1)
        with pytest.raises(Damaged, match="longer than"):
            await reading.take()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_encoded_bodies_are_undone(encoding: str) -> None:
    rng = random.Random(2)
    rows = [{"a": rng.getrandbits(200)} for _ in range(20_000)]
    plain = b"\n".join(json.dumps(one).encode() for one in rows)
    body = gzip.compress(plain) if encoding == "gzip" else zstandard.compress(plain)
    expected = list(enumerate(rows, start=1))
    reading = opened(NDJSON, pieces(body), encoding=encoding)
    assert await read(reading, 7_000) == expected[:7_000]
    again = opened(NDJSON, pieces(body), reading.place, encoding=encoding)
    assert await read(again) == expected[7_000:]
    damaged = body[: len(body) // 2]
    reading = opened(NDJSON, pieces(damaged), encoding=encoding)
    seen = []
    code = None
    while code is None:
        try:
            row = await reading.take()
            assert row is not None
            seen.append(shown(row))
        except Damaged as error:
            code = error.code
    assert code == "bad_encoding"
    assert seen == expected[: len(seen)]
    assert len(seen) > 5_000


async def test_a_bomb_is_refused() -> None:
    bomb = gzip.compress(b"{}\n" * 10_000_000)
    reading = opened(NDJSON, pieces(bomb), encoding="gzip", largest=20 << 20)
    with pytest.raises(Damaged) as raised:
        await read(reading)
    assert raised.value.code == "too_large"


@pytest.mark.parametrize("start", [b"id\n", b'id\n"'])
async def test_lines_of_nothing_take_no_memory(start: bytes) -> None:
    """A few KiB of gzip hold them by the million, within the limits; each is an object."""
    body = gzip.compress(start + b"\n" * (2 << 20))
    reading = opened(CSV, pieces(body), encoding="gzip")
    tracemalloc.start()
    try:
        rows = await read(reading)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == ([] if start == b"id\n" else [(2, "row_too_long")])
    assert most_bytes < 220 << 20


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip"])
async def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(Damaged) as raised:
        opened(NDJSON, pieces(b""), encoding=encoding)
    assert raised.value.code == "bad_encoding"


async def test_rows_before_a_store_that_fails_are_read() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b'{"a":1}\n{"a":'
        raise ArtifactDamaged("not what was written")

    reading = opened(NDJSON, failing())
    assert await reading.take() == Row(1, None, b'{"a":1}')
    with pytest.raises(ArtifactDamaged):
        await reading.take()


async def test_an_expression_finds_the_rows_of_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"data": [1, 2, 3]}'
    more: Any = {"find": lambda document: document["data"]}
    reading = opened(JSON, pieces(body), **dict(more))
    assert await read(reading, 2) == [(1, 1), (2, 2)]
    assert await read(opened(JSON, pieces(body), reading.place, **dict(more))) == [(3, 3)]
    monkeypatch.setattr(arrays, "LARGEST_DOCUMENT_BYTES", len(body) - 1)
    with pytest.raises(Damaged) as raised:
        await read(opened(JSON, pieces(body), **dict(more)))
    assert raised.value.code == "document_too_large"


async def test_the_loop_lives_while_a_long_way_is_left_out() -> None:
    body = b'{"a": 1}\n' * 3_000_000
    place = {"offset": len(body) - 9, "line": 2_999_999}
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await read(opened(NDJSON, pieces(body), place)) == [(3_000_000, {"a": 1})]
    counting.cancel()
    assert turns > 50


def test_formats() -> None:
    assert format_of_file("application/problem+json; charset=utf-8", "a") == "json"
    assert format_of_file("TEXT/CSV", "a.json") == "csv"
    assert format_of_file("", "a.JSONL") == "ndjson"
    assert format_of_file("text/xml", "a.csv") is None
    assert format_of_file("text/plain", "a") is None
    with pytest.raises(Damaged, match="boundary"):
        reader_for("multipart/form-data", None, {})
    with pytest.raises(Damaged, match="format"):
        reader_for("text/xml", None, {})
