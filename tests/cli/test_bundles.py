"""A dispute's bundle leaks nothing of others, and of what is done to it nothing stays unseen."""

import io
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.audit import Draft
from shared.sealing import KeyRing
from shared.signing import SigningKey
from shared.store import audit
from tests.cli.conftest import Said, Sluice
from tests.support.importing import Importer, add_pushed, ndjson, row
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.bundles import verify as script
from workers.bundles.tape import Tape
from workers.checkpoints import write_next

#: Of the other tenant: nothing of this may be in acme's bundle.
SECRETS = (b"globex", b"cus_glo", b"sub_glo", b"initech")


@pytest.fixture
async def disputed(stack: Stack, sluice: Sluice) -> Stack:
    """Two tenants with events, grants, an import that has rows of both, links and replays."""
    for name, short in (("acme", "acm"), ("globex", "glo")):
        for number, status in enumerate(("active", "past_due", "active")):
            await stack.apply(
                event(
                    "customer.subscription.updated",
                    subscription(
                        f"sub_{short}", customer=f"cus_{short}", tenant=name, status=status
                    ),
                    created=1_790_000_000 + number * 100,
                )
            )
    # First the one's, then the other's.
    await stack.apply(
        event("customer.subscription.created", subscription("sub_x", customer="cus_x"))
    )
    for tenant in ("globex", "acme"):
        linked = await sluice(
            "tenants", "link", tenant, "--source", "stripe", "--customer", "cus_x",
            "--reason", f"they said so, and {tenant} knows globex",
        )  # fmt: skip
        assert linked.code == 0, linked.err
    given = await sluice(
        "tenants", "grant", "acme", "sso", "true", "--reason", "as globex has it", "--json"
    )
    assert given.code == 0, given.err
    replayed = await stack.value(
        "SELECT tracking_id FROM inbox WHERE subject LIKE '%sub_acm%' ORDER BY received_at LIMIT 1"
    )
    assert (await sluice("replay", replayed, "--reason", "globex asked")).code == 0
    await stack.drain()
    return stack


@pytest.fixture
async def bundle(disputed: Stack, sluice: Sluice, tmp_path: Path) -> Path:
    path = tmp_path / "acme.tar"
    said = await export(sluice, path)
    assert said.code == 0, said.err
    return path


async def export(sluice: Sluice, path: Path, *more: object, tenant: str = "acme") -> Said:
    return await sluice("audit", "export", "--tenant", tenant, "--out", path, "--json", *more)


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]


def lines(path: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in contents(path)[name].splitlines()]


async def test_a_bundle_verifies_and_holds_the_dispute(
    sluice: Sluice, disputed: Stack, bundle: Path
) -> None:
    told = await sluice("audit", "verify-bundle", bundle, "--json")
    assert told.code == 0, told.out
    assert told.json["ok"] is True
    counts = told.json["counts"]
    assert counts["records not signed yet"] == 0
    records = lines(bundle, "records.ndjson")
    chained = [one for one in records if one["chain"] == "tenant:acme"]
    assert len(chained) == await disputed.value(
        "SELECT length FROM audit_heads WHERE chain = 'tenant:acme'"
    )
    assert {"event.applied", "entitlement.granted", "customer.linked", "grant.given",
            "event.replayed"} <= {one["action"] for one in records}  # fmt: skip
    held = contents(bundle)
    bodies = {name: body for name, body in held.items() if name.endswith("/body")}
    assert len(bodies) == counts["bodies"] >= 3
    for name, body in bodies.items():
        stored = await disputed.value(
            "SELECT body FROM inbox WHERE tracking_id = $1::uuid", name.split("/")[1]
        )
        assert body == stored
        assert json.loads(held[name.replace("body", "event.json")])["secret"] == "0.1"
    assert json.loads(held["entitlements.json"])["seats"]["value"] == 10
    assert "tar xf" in held["README.md"].decode()


async def test_nothing_of_others_is_in_it(disputed: Stack, bundle: Path) -> None:
    for name, content in contents(bundle).items():
        found = [secret for secret in SECRETS if secret in content]
        assert not found, (name, found, content.decode(errors="replace"))


async def test_reasons_are_there_only_when_asked_for(
    sluice: Sluice, disputed: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "with.tar"
    assert (await export(sluice, path, "--with-reasons", "--yes")).code == 0
    told = [one["content"] for one in lines(path, "records.ndjson") if one["content"]]
    assert "as globex has it" in {one["reason"] for one in told}
    # Whose it was before stays with us: one salt is of all contents of a record.
    linked = [one for one in lines(path, "records.ndjson") if one["action"] == "customer.linked"]
    assert [one["contentState"] for one in linked] == ["held back"]


async def test_rows_of_an_import_are_the_tenants_own(
    sluice: Sluice, stack: Stack, tmp_path: Path
) -> None:
    await add_pushed(stack)
    importer = Importer(stack, tmp_path / "artifacts")
    await importer.imported(
        ndjson([row(1), row(2, tenant="globex", title="globex's plans"), row(3)])
    )
    path = tmp_path / "acme.tar"
    assert (await export(sluice, path)).code == 0
    records = lines(path, "records.ndjson")
    manifests = [one for one in records if one["chain"].startswith("import:")]
    assert len(manifests) == 1
    assert manifests[0]["contentState"] == "told"
    said = json.loads(manifests[0]["content"]["after"])
    assert [one[said["columns"].index("line")] for one in said["changes"]] == [1, 3]
    for name, content in contents(path).items():
        assert b"globex" not in content, name
        assert b"rep_2" not in content, name
    assert (await sluice("audit", "verify-bundle", path)).code == 0


async def test_an_event_of_several_is_held_back(
    sluice: Sluice, disputed: Stack, bundle: Path
) -> None:
    """`cus_x` was globex's before: what came then tells of it, and so it is not told."""
    told = [
        json.loads(content)
        for name, content in contents(bundle).items()
        if name.endswith("/event.json")
    ]
    assert {one["body"] for one in told} >= {"here"}
    for one in told:
        assert ("type" in one) == (one["body"] != "concerns others too")


async def test_what_is_erased_is_said_and_verifies(
    sluice: Sluice, disputed: Stack, tmp_path: Path
) -> None:
    await disputed.fetch(
        "UPDATE audit_content SET salt = NULL, before = NULL, after = NULL, reason = NULL"
        " WHERE audit_id IN (SELECT id FROM audit WHERE chain = 'tenant:acme' AND position <= 3)"
    )
    path = tmp_path / "erased.tar"
    assert (await export(sluice, path)).code == 0
    told = await sluice("audit", "verify-bundle", path, "--json")
    assert told.code == 0, told.out
    assert told.json["counts"]["contents erased"] >= 2


async def test_a_part_in_time_keeps_the_chain_whole(
    sluice: Sluice, disputed: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "part.tar"
    assert (await export(sluice, path, "--until", "2020-01-01")).code == 0
    told = await sluice("audit", "verify-bundle", path, "--json")
    assert told.code == 0, told.out
    assert told.json["counts"]["contents not asked for"] > 0
    assert "contents told" not in told.json["counts"]
    assert (await export(sluice, tmp_path / "x", "--since", "1h", "--until", "2h")).code == 2


async def test_the_export_is_audited_and_a_dry_run_is_not(
    sluice: Sluice, disputed: Stack, tmp_path: Path
) -> None:
    before = await disputed.value("SELECT count(*) FROM audit")
    path = tmp_path / "acme.tar"
    dry = await export(sluice, path, "--dry-run")
    assert (dry.code, dry.json["dryRun"]) == (0, True)
    assert list(tmp_path.glob("*acme*")) == []
    assert await disputed.value("SELECT count(*) FROM audit") == before
    assert await disputed.value("SELECT count(*) FROM audit_checkpoints") == 0
    done = await export(sluice, path, "--actor", "grace", "--reason", "the court asks")
    assert (await export(sluice, path)).code == 5
    assert (await export(sluice, tmp_path / "no", tenant="nobody")).code == 3
    found = (await sluice("audit", "list", "--action", "audit.exported", "--json")).json["items"]
    assert [one["actor"] for one in found] == ["operator:grace"]
    assert found[0]["after"]["sha256"] == done.json["sha256"]
    assert found[0]["subject"] == "tenant/acme"
    assert os.stat(path).st_mode & 0o077 == 0


async def test_a_merged_tenants_name_finds_the_one_that_has_it(
    sluice: Sluice, disputed: Stack, tmp_path: Path
) -> None:
    assert (await sluice("tenants", "merge", "acme", "hooli", "--reason", "x")).code == 3
    await disputed.apply(
        event(
            "customer.subscription.created",
            subscription("sub_h", customer="cus_h", tenant="hooli"),
        )
    )
    assert (await sluice("tenants", "merge", "acme", "hooli", "--reason", "one")).code == 0
    path = tmp_path / "acme.tar"
    done = await export(sluice, path)
    assert (done.json["tenant"], done.json["names"]) == ("hooli", ["hooli", "acme"])
    assert (await sluice("audit", "verify-bundle", path)).code == 0
    chains = {one["chain"] for one in lines(path, "records.ndjson")}
    assert {"tenant:acme", "tenant:hooli"} <= chains
    assert all(b"globex" not in content for content in contents(path).values())


# Tampering ---------------------------------------------------------------------------------------


async def test_every_flipped_byte_is_found(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    assert script.verify(bundle)["ok"]
    draw = random.Random(8)
    places = {*range(0, 512, 7), *range(len(whole) - 1500, len(whole), 5)}
    with tarfile.open(bundle) as tar:
        for one in tar:
            for start, size in ((one.offset, 512), (one.offset_data, one.size)):
                places.update(start + draw.randrange(size) for _ in range(15) if size)
            # What fills a member's last block up.
            places.update(
                range(one.offset_data + one.size, -(-(one.offset_data + one.size) // 512) * 512, 97)
            )
    changed = tmp_path / "changed"
    assert len(places) > 1000
    for place in sorted(places):
        bit = 1 << draw.randrange(8)
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert not script.verify(changed)["ok"], place


def rebuilt(path: Path, change: Callable[[list[tuple[str, bytes]]], Any]) -> bytes:
    """The same file with other members, as somebody without the key would write it."""
    members = list(contents(path).items())
    change(members)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue().rstrip(b"\0") + bytes(-len(file.getvalue().rstrip(b"\0")) % 512 + 1024)


async def test_members_are_not_dropped_added_or_reordered(bundle: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.write_bytes(rebuilt(bundle, lambda members: None))
    assert script.verify(changed)["ok"], "what is rebuilt the same is the same"
    count = len(contents(bundle))
    for index in range(count):
        changed.write_bytes(rebuilt(bundle, lambda members, at=index: members.pop(at)))
        assert not script.verify(changed)["ok"], index
        changed.write_bytes(
            rebuilt(bundle, lambda members, at=index: members.insert(at, ("more", b"{}")))
        )
        assert not script.verify(changed)["ok"], index
        if index:
            changed.write_bytes(
                rebuilt(bundle, lambda members, at=index: members.insert(0, members.pop(at)))
            )
            assert not script.verify(changed)["ok"], index
        changed.write_bytes(
            rebuilt(bundle, lambda members, at=index: members.insert(at, members[at]))
        )
        assert not script.verify(changed)["ok"], index
    for length in (0, 1, 511, 512, len(bundle.read_bytes()) - 512):
        changed.write_bytes(bundle.read_bytes()[:length])
        assert not script.verify(changed)["ok"], length
    changed.write_bytes(bundle.read_bytes() + bytes(512))
    assert not script.verify(changed)["ok"]


def signed_again(
    path: Path, target: Path, key: SigningKey, change: Callable[[str, bytes], bytes]
) -> None:
    """What the deployment could do that has the key: another manifest over other members."""
    held = contents(path)
    manifest = json.loads(held["MANIFEST.json"])
    about = {
        name: value for name, value in manifest.items() if name not in ("format", "key", "members")
    }
    with target.open("wb") as file:
        tape = Tape(file)
        for name, content in held.items():
            if not name.startswith("MANIFEST"):
                tape.add(name, change(name, content))
        tape.finish(key, about)


async def own_key(stack: Stack) -> SigningKey:
    ring = KeyRing.parse(stack.endpoints.secret_key)
    rows = await stack.fetch("SELECT id, key_id, nonce, ciphertext FROM audit_key_secrets")
    from shared.sealing import Sealed

    key = rows[0]
    return SigningKey.opened(
        ring, key["id"], Sealed(key["key_id"], key["nonce"], key["ciphertext"])
    )


RECORD_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "actor": lambda one: one.update(actor="operator:nobody"),
    "at": lambda one: one.update(at="2026-01-01T00:00:00.000000+00:00"),
    "hash": lambda one: one.update(hash="00" * 32),
    "previous": lambda one: one.update(previousHash="00" * 32),
    "position": lambda one: one.update(position=one["position"] + 1),
    "digest": lambda one: one.update(after="00" * 32),
    "content": lambda one: one["content"].update(after='{"value": 1}'),
    "salt": lambda one: one["content"].update(salt="00" * 16),
    "rehashed": lambda one: (
        one.update(run=one["run"] + 1) or one.update(hash=script._record_hash(one))
    ),
}


@pytest.mark.parametrize("change", RECORD_CHANGES)
async def test_who_has_the_key_cannot_change_what_was_signed_before(
    disputed: Stack, bundle: Path, tmp_path: Path, change: str
) -> None:
    key = await own_key(disputed)
    changed = tmp_path / "changed"
    signed_again(bundle, changed, key, lambda name, content: content)
    assert script.verify(changed, key.id)["ok"]
    told = lines(bundle, "records.ndjson")
    for index, one in enumerate(told):
        if one["content"] is None or one["content"]["after"] is None:
            continue

        def alter(name: str, content: bytes, index: int = index) -> bytes:
            if name != "records.ndjson":
                return content
            every = [json.loads(line) for line in content.splitlines()]
            RECORD_CHANGES[change](every[index])
            return b"".join(json.dumps(line).encode() + b"\n" for line in every)

        signed_again(bundle, changed, key, alter)
        assert not script.verify(changed, key.id)["ok"], (change, one)


async def test_records_are_not_dropped_by_who_has_the_key(
    disputed: Stack, bundle: Path, tmp_path: Path
) -> None:
    """From the middle of the tenant's chain, or one that a proof is of."""
    key = await own_key(disputed)
    told = lines(bundle, "records.ndjson")
    chained = [index for index, one in enumerate(told) if one["chain"] == "tenant:acme"]
    changed = tmp_path / "changed"
    for gone in range(len(told)):

        def drop(name: str, content: bytes, gone: int = gone) -> bytes:
            every = content.splitlines(keepends=True)
            return (
                content if name != "records.ndjson" else b"".join(every[:gone] + every[gone + 1 :])
            )

        signed_again(bundle, changed, key, drop)
        assert not script.verify(changed, key.id)["ok"], (gone in chained, told[gone])


async def test_a_checkpoint_is_what_was_signed_at_its_time(
    disputed: Stack, bundle: Path, tmp_path: Path
) -> None:
    """Another statement under the same signature, in a file that is signed anew as a whole."""
    key = await own_key(disputed)
    changed = tmp_path / "changed"

    def later(name: str, content: bytes) -> bytes:
        if name != "checkpoints.ndjson":
            return content
        every = [json.loads(line) for line in content.splitlines()]
        every[-1]["statement"] += " "
        return b"".join(json.dumps(line).encode() + b"\n" for line in every)

    signed_again(bundle, changed, key, later)
    assert not script.verify(changed, key.id)["ok"]


async def test_a_record_written_anew_is_in_no_checkpoint(
    disputed: Stack, bundle: Path, tmp_path: Path
) -> None:
    """The last one of the tenant's chain, whose hash no other record has."""
    key = await own_key(disputed)
    changed = tmp_path / "changed"
    told = lines(bundle, "records.ndjson")
    last = max(index for index, one in enumerate(told) if one["chain"] == "tenant:acme")

    def rewrite(name: str, content: bytes) -> bytes:
        if name != "records.ndjson":
            return content
        every = [json.loads(line) for line in content.splitlines()]
        every[last]["actor"] = "operator:nobody"
        every[last]["hash"] = script._record_hash(every[last])
        return b"".join(json.dumps(line).encode() + b"\n" for line in every)

    signed_again(bundle, changed, key, rewrite)
    (found,) = script.verify(changed, key.id)["findings"]
    assert "is not in the checkpoint" in found


async def test_a_body_is_the_one_that_its_event_names(
    disputed: Stack, bundle: Path, tmp_path: Path
) -> None:
    key = await own_key(disputed)
    changed = tmp_path / "changed"
    signed_again(
        bundle, changed, key,
        lambda name, content: content + b" " if name.endswith("/body") else content,
    )  # fmt: skip
    findings = script.verify(changed, key.id)["findings"]
    assert findings
    assert all("the body is another one" in one for one in findings)


async def test_another_key_is_another_key(
    disputed: Stack, bundle: Path, tmp_path: Path, sluice: Sluice
) -> None:
    """Somebody who brings a key of his own passes for nobody else."""
    other = SigningKey.new()
    mine = json.dumps([{"id": other.id, "publicKey": other.public.hex()}]).encode()
    changed = tmp_path / "changed"

    def forge(name: str, content: bytes) -> bytes:
        if name == "keys.json":
            return json.dumps(json.loads(content) + json.loads(mine)).encode()
        return content

    signed_again(bundle, changed, other, forge)
    assert script.verify(changed)["ok"]
    real = (await own_key(disputed)).id
    assert not script.verify(changed, real)["ok"]
    assert script.verify(bundle, real)["ok"]
    said = await sluice("audit", "verify-bundle", changed, "--key", real)
    assert said.code == 1
    assert "not with" in said.out


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_damage_passes(made: Path, data: st.DataObject) -> None:
    whole = made.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(0, 64))
    put = data.draw(st.binary(max_size=64))
    damaged = whole[:start] + put + whole[start + length :]
    path = made.with_name("damaged")
    path.write_bytes(damaged)
    assert script.verify(path)["ok"] == (damaged == whole)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle without a database: nothing but its file is asked."""
    path = tmp_path_factory.mktemp("made") / "small.tar"
    key = SigningKey.new()
    with path.open("wb") as file:
        tape = Tape(file)
        tape.add_json("keys.json", [{"id": key.id, "publicKey": key.public.hex()}])
        for name in ("records", "proofs", "checkpoints"):
            tape.add_lines(f"{name}.ndjson", [])
        tape.add("events/1/event.json", b'{"bodySha256": null}')
        tape.finish(key, {"tenant": "acme", "at": "2026-11-21T22:00:00Z"})
    assert script.verify(path)["ok"], script.verify(path)
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "long", "header", "member", "end"])
async def test_what_is_no_bundle_is_said_in_a_sentence(
    sluice: Sluice, made: Path, tmp_path: Path, kind: str
) -> None:
    whole = made.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not a tar",
        "long": b"not a tar " * 200,
        "header": whole[:700],
        "member": whole[:-2000],
        "end": whole[:-512],
    }[kind]
    path = tmp_path / "some.tar"
    path.write_bytes(damaged)
    said = await sluice("audit", "verify-bundle", path)
    assert said.code == 1
    assert said.out.startswith("it is not as it was written: no bundle, or cut off: ")
    assert "Error" not in said.out + said.err
    told = await sluice("audit", "verify-bundle", path, "--json")
    assert (told.code, told.json["ok"]) == (1, False)


async def test_a_bundle_that_cannot_be_read_is_a_usage_error(
    sluice: Sluice, tmp_path: Path
) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        said = await sluice("audit", "verify-bundle", path)
        assert said.code == 2
        assert said.err.startswith(f"sluice: {path} cannot be read: {why}")


async def test_the_script_needs_nothing_of_us(bundle: Path, tmp_path: Path) -> None:
    """As the other side runs it: with the standard library and `cryptography`, anywhere."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "verify.py").write_bytes(contents(bundle)["verify.py"])
    blocked = (
        "import sys, runpy\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('shared', 'workers', 'gateway', 'msgspec', 'asyncpg'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "runpy.run_path('verify.py', run_name='__main__')\n"
    )
    for path, code in ((bundle, 0), (place / "verify.py", 1)):
        done = subprocess.run(
            [sys.executable, "-I", "-c", blocked, str(path)],
            cwd=place, env={"PATH": ""}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout)["ok"] == (code == 0)
    source = (place / "verify.py").read_text()
    code_lines = source.split('"""', 2)[2].splitlines()
    assert (
        sum(1 for line in code_lines if line.strip() and not line.startswith(("import", "from")))
        <= 100
    )


async def test_verifying_asks_nobody(bundle: Path, tmp_path: Path) -> None:
    """No database, no home, no network: a process that may open no socket."""
    code = (
        "import sys, socket\n"
        "sys.addaudithook(lambda event, _: (_ for _ in ()).throw(RuntimeError(event))"
        " if event.startswith('socket.') else None)\n"
        f"sys.argv = ['sluice', 'audit', 'verify-bundle', {str(bundle)!r}]\n"
        "from workers.cli import main\nmain()\n"
    )
    env = {"PATH": os.environ["PATH"], "SLUICE_HOME": str(tmp_path / "none"), "HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "whole, as it was signed" in done.stdout
    assert not (tmp_path / "none").exists()


async def test_what_was_altered_in_the_database_shows(
    sluice: Sluice, disputed: Stack, tmp_path: Path
) -> None:
    """A bundle of an altered trail is signed, and does not verify."""
    ring = KeyRing.parse(disputed.endpoints.secret_key)
    async with disputed.crew.db.transaction() as conn:
        assert await write_next(conn, ring, "system:test") is not None
    async with disputed.owner.transaction() as conn:
        await conn.execute("SET LOCAL session_replication_role = replica")
        await conn.execute(
            "UPDATE audit SET actor = 'operator:x' WHERE chain = 'tenant:acme' AND position = 2"
        )
    path = tmp_path / "altered.tar"
    assert (await export(sluice, path)).code == 0
    told = await sluice("audit", "verify-bundle", path, "--json")
    assert told.code == 1
    assert any("record 2 of tenant:acme" in one for one in told.json["findings"])


async def test_what_names_another_is_hidden_and_what_is_unknown_held_back(
    sluice: Sluice, disputed: Stack, tmp_path: Path
) -> None:
    """A record that came of another's derivation; an action that this version does not know."""
    drafts = [
        Draft(
            chain="tenant:acme", cause=cause, cause_id=cause_id, run=1, tenant="acme", step=1,
            action=action, actor="system:sweep", feature="seats", after=after,
        )
        for cause, cause_id, action, after in (
            ("catalog", "9:globex", "entitlement.changed", b'{"value": 3, "validUntil": null}'),
            ("operator", "new", "tenant.surprised", b'{"told": "globex"}'),
            ("catalog", "9", "entitlement.changed", b'{"value": 4, "validUntil": null}'),
        )
    ]  # fmt: skip
    async with disputed.crew.db.transaction() as conn:
        now, xid = await audit.moment(conn)
        await audit.append(conn, drafts, now=now, xid=xid)  # type: ignore[arg-type]
    path = tmp_path / "acme.tar"
    assert (await export(sluice, path, "--with-reasons")).code == 0
    told = await sluice("audit", "verify-bundle", path, "--json")
    assert told.code == 0, told.out
    assert told.json["counts"]["contents hidden"] == 1
    records = [one for one in lines(path, "records.ndjson") if one["chain"] == "tenant:acme"]
    assert [one["contentState"] for one in records[-3:]] == ["hidden", "held back", "told"]
    assert records[-3].keys() == {"chain", "position", "hash", "contentState"}
    # What stands before it is signed by a proof of its own.
    proven = {(one["chain"], one["position"]) for one in lines(path, "proofs.ndjson")}
    assert {("tenant:acme", records[-4]["position"]), ("tenant:acme", records[-1]["position"])} <= (
        proven
    )
    key = await own_key(disputed)
    changed = tmp_path / "changed"

    def bend(name: str, content: bytes) -> bytes:
        hidden = records[-3]["hash"].encode()
        return content if name != "records.ndjson" else content.replace(hidden, b"0" * 64, 1)

    signed_again(path, changed, key, bend)
    assert not script.verify(changed, key.id)["ok"]
    assert all(b'"9:globex"' not in content for content in contents(path).values())
