"""How much there is of a list that says only whether there is more. Pure, but for the asking."""

from collections.abc import Awaitable, Callable

#: Nobody had a subscription before: 2011-01-01.
_BEGINNING = 1_293_840_000
#: Each halves what is open: to a few days, of fifteen years.
_QUESTIONS = 10


async def oldest_of(newest: int, is_any_before: Callable[[int], Awaitable[bool | None]]) -> int:
    """
    About when the first of a list was made, in unix seconds; `newest` is of one of it.

    `is_any_before` says None where nobody can be asked now: then it stays at what is known.
    """
    low, high = _BEGINNING, max(newest, _BEGINNING + 1)
    for _ in range(_QUESTIONS):
        middle = (low + high) // 2
        found = await is_any_before(middle)
        if found is None:
            break
        low, high = (low, middle) if found else (middle, high)
    return low


def estimated(done: int, newest: int, last: int, oldest: int) -> int | None:
    """
    How many there are in all, if they were made evenly: `done` from `newest` down to `last`.

    None where that says nothing yet.
    """
    if newest <= last or last < oldest:
        return None
    return max(done, round(done * (newest - oldest) / (newest - last)))
