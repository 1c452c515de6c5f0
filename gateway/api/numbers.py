"""
What a tenant's token is shown instead of names that hold a row's number.

Operators know what was given by hand, and what the clock ended, by the numbers of objects. Those
count everybody's: two of them would tell a tenant how much the others did between.
"""

import re
from collections.abc import Mapping
from typing import Any

from shared.domain.audit import actor_for_tenant

#: "manual/17", and "17:PLAN:FEATURE:until:TIME".
_GIVEN = re.compile(r"manual/\d+")
_TURNED = re.compile(r"\d+:(.+:(?:until|from):.+)", re.DOTALL)
#: Where such names stand in answers.
_KEYS = frozenset({"object", "subject", "causeId"})


def hide_number(name: str) -> str:
    """The name without the number; as it is, where it holds none."""
    if _GIVEN.fullmatch(name):
        return "manual"
    turned = _TURNED.fullmatch(name)
    return name if turned is None else turned[1]


def without_numbers(shown: Any) -> Any:
    """An answer as JSON has it, with all such names in it hidden."""
    if isinstance(shown, Mapping):
        return {key: _shown(key, value) for key, value in shown.items()}
    if isinstance(shown, list | tuple):
        return [without_numbers(one) for one in shown]
    return shown


def _shown(key: str, value: Any) -> Any:
    if key == "linkedBy" and isinstance(value, str):
        return actor_for_tenant(value)
    return hide_number(value) if key in _KEYS and isinstance(value, str) else without_numbers(value)
