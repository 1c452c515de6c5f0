"""
What a pushed document is written in, by its media type.

Sources: RFC 8259 and RFC 6839 (JSON, `+json`), RFC 4180 and RFC 7111 (CSV), RFC 7578 (multipart).
NDJSON is registered nowhere: these are the names that it goes by (read 2026-11).
"""

from collections.abc import Mapping

#: Format → its media types, the one to recommend first.
MEDIA_TYPES: Mapping[str, tuple[str, ...]] = {
    "json": ("application/json", "text/json"),
    "ndjson": (
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
        "application/x-jsonl",
    ),
    "csv": ("text/csv", "application/csv"),
    "multipart": ("multipart/form-data",),
}
_BY_TYPE = {name: form for form, names in MEDIA_TYPES.items() for name in names}


def format_of(content_type: str) -> str | None:
    """The format that a `Content-Type` names, one of `MEDIA_TYPES`; None: none of them."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith("application/") and media_type.endswith("+json"):
        return "json"
    return _BY_TYPE.get(media_type)


def parameter_of(content_type: str, name: str) -> str | None:
    """A parameter's value without its quotes, `name` in lower case; None where it has none."""
    for one in content_type.split(";")[1:]:
        found, equals, value = one.strip().partition("=")
        if equals and found.strip().lower() == name:
            return value.strip().strip('"')
    return None
