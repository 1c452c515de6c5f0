"""Secrets at rest open in their own place, with their own key, or not at all."""

import base64

import pytest

from shared.sealing import API_KEY_SLOT, KeyRing, Sealed, SealingError, key_id, new_key

PLACE = {"source": "stripe", "slot": 0, "version": 1}


def test_what_is_sealed_opens_in_its_place_only() -> None:
    ring = KeyRing.parse(new_key())
    sealed = ring.seal("whsec_1", **PLACE)  # type: ignore[arg-type]
    assert ring.open(sealed, **PLACE) == "whsec_1"  # type: ignore[arg-type]
    for other in ({"source": "clerk"}, {"slot": 1}, {"version": 2}):
        with pytest.raises(SealingError, match="altered or moved"):
            ring.open(sealed, **{**PLACE, **other})  # type: ignore[arg-type]
    flipped = bytes([sealed.ciphertext[0] ^ 1]) + sealed.ciphertext[1:]
    with pytest.raises(SealingError):
        ring.open(Sealed(sealed.key_id, sealed.nonce, flipped), **PLACE)  # type: ignore[arg-type]


def test_an_api_key_opens_for_its_address_only() -> None:
    ring = KeyRing.parse(new_key())
    place = {**PLACE, "slot": API_KEY_SLOT}
    sealed = ring.seal("sk_1", **place, address="https://a.example")  # type: ignore[arg-type]
    assert ring.open(sealed, **place, address="https://a.example") == "sk_1"  # type: ignore[arg-type]
    for other in (None, "https://b.example", ""):
        with pytest.raises(SealingError, match="the API key of source 'stripe' does not open"):
            ring.open(sealed, **place, address=other)  # type: ignore[arg-type]


def test_keys_rotate() -> None:
    old, new = new_key(), new_key()
    sealed = KeyRing.parse(old).seal("whsec_1", **PLACE)  # type: ignore[arg-type]
    both = KeyRing.parse(f" {new} , {old},")
    assert both.open(sealed, **PLACE) == "whsec_1"  # type: ignore[arg-type]
    assert both.seal("x", **PLACE).key_id == both.first != sealed.key_id  # type: ignore[arg-type]
    with pytest.raises(SealingError, match=sealed.key_id):
        KeyRing.parse(new).open(sealed, **PLACE)  # type: ignore[arg-type]
    assert KeyRing.parse(new).lacks([sealed.key_id]) == [sealed.key_id]
    both.check([sealed.key_id])


@pytest.mark.parametrize("text", ["", " , ", "short", "!" * 43, "A" * 40, "é" * 43])
def test_a_key_that_is_none_is_named_by_its_position_only(text: str) -> None:
    with pytest.raises(SealingError) as caught:
        KeyRing.parse(text)
    assert not text.strip(" ,") or text not in str(caught.value)


def test_no_key_is_ever_shown() -> None:
    key = new_key()
    ring = KeyRing.parse(key)
    raw = base64.urlsafe_b64decode(key + "=")
    assert key not in repr(ring)
    assert key not in ring.digest("x")
    assert key_id(raw) == ring.first
    assert len(ring.first) == 16


def test_a_digest_tells_equal_from_other_and_nothing_else() -> None:
    ring = KeyRing.parse(new_key())
    assert ring.digest("Bearer a") == ring.digest("Bearer a") != ring.digest("Bearer b")
    assert ring.digest("Bearer a") != KeyRing.parse(new_key()).digest("Bearer a")
