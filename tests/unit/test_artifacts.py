"""The artifact store in a directory: what lies under a digest is that content, or an error."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from shared.artifacts import ArtifactDamaged, ArtifactError, ArtifactGone, Artifacts

CONTENT = bytes(range(256)) * 20_000


async def put(store: Artifacts, content: bytes = CONTENT) -> bytes:
    digest = sha256(content).digest()
    await store.put(BytesIO(content), digest, len(content))
    return digest


async def read(store: Artifacts, digest: bytes) -> bytes:
    return b"".join([chunk async for chunk in store.read(digest)])


def files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


async def test_what_was_put_is_read(tmp_path: Path) -> None:
    for store in (Artifacts(None, tmp_path), Artifacts((tmp_path / "other").as_uri(), tmp_path)):
        for content in (CONTENT, b"", b"x"):
            digest = await put(store, content)
            assert await read(store, digest) == content
    assert len(files(tmp_path)) == 6  # and no draft


async def test_again_is_harmless_and_mends_what_was_cut_short(tmp_path: Path) -> None:
    store = Artifacts(None, tmp_path)
    digest = await put(store)
    [path] = files(tmp_path)
    written_at = path.stat().st_mtime_ns
    await put(store)
    assert path.stat().st_mtime_ns == written_at
    path.write_bytes(CONTENT[:1000])
    with pytest.raises(ArtifactDamaged):
        await read(store, digest)
    await put(store)
    assert await read(store, digest) == CONTENT


async def test_what_is_gone_is_told(tmp_path: Path) -> None:
    store = Artifacts(None, tmp_path)
    digest = await put(store)
    await store.remove(digest)
    await store.remove(digest)
    with pytest.raises(ArtifactGone):
        await read(store, digest)


async def test_a_directory_that_cannot_be_written_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot be used"):
        await put(Artifacts(None, tmp_path))

    class Broken(BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    (tmp_path / "artifacts").unlink()
    store = Artifacts(None, tmp_path)
    with pytest.raises(ArtifactError, match="Input/output error"):
        await store.put(Broken(), sha256(b"x").digest(), 1)
    assert not files(tmp_path)
