"""What jobs were given and have made, as it goes out: whole, or cut off so that it is noticed."""

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from hashlib import sha256

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.envelope import Refusal
from shared.artifacts import ArtifactDamaged, ArtifactError, ArtifactGone, Artifacts
from shared.store.job_lists import Asset

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+( *; *[\w!#$&^.+-]+=\"?[\w!#$&^.+ -]+\"?)*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")


async def respond(
    asset: Asset, body: bytes | None, artifacts: Artifacts, *, known: str | None, is_head: bool
) -> Response:
    """
    The asset, of which `body` is the content where the database has it. `known` is what
    If-None-Match says.

    Raises:
        Refusal: it is not there any more, or cannot be read now.
    """
    digest = asset.sha256.hex()
    headers = {
        "ETag": f'"{digest}"',
        "Content-Type": _media_type(asset.media_type),
        "Content-Disposition": f'attachment; filename="{_NOT_IN_NAMES.sub("_", asset.name)}"',
        "Content-Length": str(asset.size_bytes),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }
    if known is not None and (known.strip() == "*" or digest in known):
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    if is_head:
        return Response(headers=headers)
    if body is not None:
        if sha256(body).digest() != asset.sha256:
            raise _gone("What is kept under this name is not what it was.")
        return Response(body, headers=headers)
    content = _content(artifacts, asset.parts or [asset.sha256])
    try:
        first = await anext(content, b"")
    except ArtifactGone:
        raise _gone("The asset is not kept any more.") from None
    except ArtifactDamaged as error:
        raise Refusal("store_unavailable", "The asset is damaged where it is kept.") from error
    except ArtifactError as error:
        raise Refusal("store_unavailable", "The artifact store cannot be read now.") from error
    return _Whole(_joined(first, content), headers=headers)


def _gone(message: str) -> Refusal:
    return Refusal("not_found", message)


def _media_type(text: str) -> str:
    """Whatever somebody sent is no header of ours."""
    return text if _MEDIA_TYPE.fullmatch(text) else "application/octet-stream"


async def _content(artifacts: Artifacts, digests: Sequence[bytes]) -> AsyncGenerator[bytes]:
    """
    In chunks, the last one of each artifact only when that is known to be whole: one that is
    damaged ends short of what Content-Length says.
    """
    for digest in digests:
        async with contextlib.aclosing(artifacts.read(digest)) as chunks:
            held: bytes | None = None
            async for chunk in chunks:
                if held is not None:
                    yield held
                held = chunk
            if held is not None:
                yield held


async def _joined(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()


class _Whole(StreamingResponse):
    """Ends quietly with a client that goes away."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            return
