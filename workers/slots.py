"""
Which of a source's secrets stay, which are written and which go, by what a file declares. Pure.

A secret keeps its slot while it is declared, wherever it stands in the list. What was rotated over
the API the file does not know at first. While it names the secret that was rotated out, it is
older than the rotation: that one stays out, and the one that came for it stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.sealing import KeyRing, SealingError
from shared.store.configuration import SealedSecret, StoredSource


@dataclass(frozen=True, slots=True)
class SecretChange:
    """
    By slot: which go; the values that need a slot; and `adopted`, which were rotated in and are the
    file's from now on. `replaced` are those of `gone` or overwritten ones that were rotated in, and
    by whom. `outdated` are the labels that the file names although they were rotated out.
    """

    gone: tuple[int, ...] = ()
    new: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    adopted: tuple[int, ...] = ()
    replaced: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()

    @property
    def said(self) -> list[str]:
        """What is written, in words."""
        words = []
        if self.new or self.gone:
            words.append(f"secrets: {len(self.new)} written, {len(self.gone)} removed")
        words += [f"secrets: replaces {one}" for one in self.replaced]
        if self.adopted:
            words.append(f"secrets: {len(self.adopted)} rotated in, from now on the file's")
        return words

    @property
    def noted(self) -> list[str]:
        """What somebody should know of, and nothing is written for."""
        return [
            f"secrets: the file names {label}, which was rotated out and stays out; name the new"
            " one"
            for label in self.outdated
        ]


def compare_secrets(stored: StoredSource, wanted: Sequence[str], keys: KeyRing) -> SecretChange:
    """What becomes of the stored secrets where the file declares these."""
    opened = {one.slot: _opened(stored.name, one, keys) for one in stored.secrets}
    active = [one for one in stored.secrets if one.retires_at is None]
    kept: dict[str, int] = {}
    unnamed: list[SealedSecret] = []
    adopted = []
    for one in active:
        plaintext = opened[one.slot]
        if plaintext is None or plaintext not in wanted:
            # One that does not open is written anew: applying its file is how it is mended.
            unnamed.append(one)
        elif plaintext not in kept and one.sealed.key_id == keys.first:
            kept[plaintext] = one.slot
            if one.added_by is not None:
                adopted.append(one.slot)
    in_use = {opened[one.slot] for one in active}
    staying, outdated = set(kept.values()), []
    for one in stored.secrets:
        plaintext = opened[one.slot]
        if one.retires_at is None:
            continue
        if plaintext is not None and plaintext in wanted and plaintext not in in_use:
            outdated.append(_label(one))
            kept.setdefault(plaintext, one.slot)
            staying.add(one.slot)
        elif not one.is_retired:
            staying.add(one.slot)  # it ends by itself, when the rotation said
    rotated = [one for one in unnamed if one.added_by is not None]
    if outdated:
        staying.update(one.slot for one in rotated)
        rotated = []
    free = (slot for slot in range(32_767) if slot not in staying)
    new = tuple((next(free), value) for value in wanted if value not in kept)
    taken = staying.union(slot for slot, _ in new)
    return SecretChange(
        gone=tuple(one.slot for one in stored.secrets if one.slot not in taken),
        new=new,
        adopted=tuple(adopted),
        replaced=tuple(f"{_label(one)}, which {one.added_by} rotated in" for one in rotated),
        outdated=tuple(outdated),
    )


def _opened(source: str, one: SealedSecret, keys: KeyRing) -> str | None:
    try:
        return keys.open(one.sealed, source=source, slot=one.slot, version=one.version)
    except SealingError:
        return None


def _label(one: SealedSecret) -> str:
    return f"{one.slot}.{one.version}"
