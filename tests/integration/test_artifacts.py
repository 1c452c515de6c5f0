"""The artifact store: what was put is there, whole and once, or whoever asks is told."""

import asyncio
import io
import os
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from shared.artifacts import ArtifactDamaged, ArtifactError, ArtifactGone, Artifacts
from tests.support.buckets import running_bucket

LARGE = os.urandom(12 << 20)


def digest_of(content: bytes) -> bytes:
    return sha256(content).digest()


async def put(artifacts: Artifacts, content: bytes) -> bytes:
    digest = digest_of(content)
    await artifacts.put(io.BytesIO(content), digest, len(content))
    return digest


async def read(artifacts: Artifacts, digest: bytes) -> bytes:
    return b"".join([chunk async for chunk in artifacts.read(digest)])


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What lies in a bucket that the environment names."""
    with running_bucket() as (endpoint, objects):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        yield objects


@pytest.fixture(params=["directory", "bucket"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "directory":
        return Artifacts(None, tmp_path)
    request.getfixturevalue("bucket")
    return Artifacts("s3://things/sluice", tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=["empty", "small", "large"])
async def test_what_was_put_is_read_until_it_is_removed(
    artifacts: Artifacts, content: bytes
) -> None:
    digest = await put(artifacts, content)
    assert await read(artifacts, digest) == content
    assert await put(artifacts, content) == digest
    await artifacts.remove(digest)
    with pytest.raises(ArtifactGone, match=digest.hex()):
        await read(artifacts, digest)
    await artifacts.remove(digest)


async def test_the_same_content_at_once(artifacts: Artifacts) -> None:
    await asyncio.gather(*(put(artifacts, LARGE) for _ in range(4)))
    assert await read(artifacts, digest_of(LARGE)) == LARGE


async def test_a_file_that_was_read_already_is_kept_whole(artifacts: Artifacts) -> None:
    file = io.BytesIO(b"read before")
    file.read()
    await artifacts.put(file, digest_of(b"read before"), 11)
    assert await read(artifacts, digest_of(b"read before")) == b"read before"


def place_of(home: Path, digest: bytes) -> Path:
    return home / "artifacts" / "sha256" / digest.hex()[:2] / digest.hex()


async def test_what_is_not_what_was_written_is_noticed(tmp_path: Path) -> None:
    artifacts = Artifacts(None, tmp_path)
    digest = await put(artifacts, LARGE)
    with place_of(tmp_path, digest).open("r+b") as file:
        file.seek(7 << 20)
        file.write(b"damaged")
    with pytest.raises(ArtifactDamaged, match=digest.hex()):
        await read(artifacts, digest)


async def test_one_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    artifacts = Artifacts(None, tmp_path)
    digest = await put(artifacts, LARGE)
    place_of(tmp_path, digest).write_bytes(LARGE[: 1 << 20])
    await put(artifacts, LARGE)
    assert await read(artifacts, digest) == LARGE


async def test_it_is_on_disk_with_every_directory_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The content before it has its name; the directories also where it was there already: its writer
    may have died before it asked the disk for them.
    """
    synced: list[str] = []
    sync = os.fsync

    def watched(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    artifacts = Artifacts(None, tmp_path)
    digest = await put(artifacts, b"x")
    file = place_of(tmp_path, digest)
    above = {str(one) for one in file.parents[:3]}
    draft, *directories = synced
    assert draft.startswith(f"{file}.")
    assert set(directories) == above
    synced.clear()
    await put(artifacts, b"x")
    assert set(synced) == above


async def test_the_directory_is_nobody_elses(tmp_path: Path) -> None:
    await put(Artifacts(None, tmp_path), b"x")
    assert (tmp_path / "artifacts").stat().st_mode & 0o077 == 0


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file")
    artifacts = Artifacts(None, tmp_path)
    with pytest.raises(ArtifactError, match="SLUICE_ARTIFACTS_URL cannot be used"):
        await put(artifacts, b"x")
    other = Artifacts((tmp_path / "store").as_uri(), tmp_path)
    await put(other, b"y")
    (tmp_path / "store" / "sha256" / digest_of(b"x").hex()[:2]).write_text("in the way")
    with pytest.raises(ArtifactError, match="did not take it"):
        await put(other, b"x")


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/x", "s3://"])
async def test_a_url_that_names_no_store(tmp_path: Path, url: str) -> None:
    with pytest.raises(ArtifactError):
        await put(Artifacts(url, tmp_path), b"x")


async def test_a_bucket_without_credentials_says_so_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(ArtifactError, match="did not take it"):
        await put(Artifacts("s3://things/sluice", tmp_path), b"x")
    assert time.monotonic() - begun < 20


async def test_a_bucket_that_does_not_answer(
    tmp_path: Path, bucket: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    artifacts = Artifacts("s3://things/sluice", tmp_path)
    for asked in (put(artifacts, b"x"), read(artifacts, bytes(32)), artifacts.remove(bytes(32))):
        with pytest.raises(ArtifactError) as raised:
            await asked
        assert not isinstance(raised.value, ArtifactGone)
    assert bucket == {}
