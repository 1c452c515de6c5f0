"""What the models of Stripe's objects have in common: bounds, expandable ids, lists, metadata."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from shared.domain.events import is_storable
from shared.domain.states import Item

LATEST_S = 250_000_000_000  # what a datetime can still hold
_LARGEST = 2**53 - 1  # what every JSON reader holds exactly

Seconds = Annotated[int, msgspec.Meta(ge=0, le=LATEST_S)]
Quantity = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
#: In the currency's minor units; an invoice's may be negative.
Amount = Annotated[int, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]

Entry = TypeVar("Entry")


class Expanded(msgspec.Struct):
    """An object where its id would do."""

    id: str


#: Stripe gives the id, or the object where a fetch or an endpoint expands it.
Reference = str | Expanded


class Page(msgspec.Struct, Generic[Entry]):
    """A list inside an object: its first entries, and whether there are more."""

    data: list[Entry] = []
    has_more: bool | None = None


class Price(msgspec.Struct):
    """A price, or the older plan in its place."""

    id: str
    product: Reference | None = None


class Line(msgspec.Struct):
    """A line of a subscription or of a session."""

    quantity: Quantity | None = None
    price: Price | None = None
    plan: Price | None = None  # before prices, and still beside them
    current_period_end: Seconds | None = None  # of a subscription's, since 2025-03-31.basil


def id_of(reference: Reference) -> str:
    """The id of what is named, expanded or not."""
    return reference if isinstance(reference, str) else reference.id


def storable(text: object) -> str | None:
    """The text, or None where it is none that an index or a JSON column holds."""
    return text if isinstance(text, str) and is_storable(text) else None


def named_in(metadata: Mapping[str, Any] | None, key: str) -> str | None:
    """What somebody with access to the Stripe account wrote under `key`."""
    return storable(metadata.get(key)) if metadata else None


def refs_of(*named: tuple[str, Reference | None]) -> tuple[str, ...]:
    """Sorted "kind/id" of (kind, id) pairs, without those that are absent or cannot be stored."""
    refs = {f"{kind}/{id_of(one)}" for kind, one in named if one is not None and id_of(one)}
    return tuple(sorted(filter(is_storable, refs)))


def items_of(lines: list[Line]) -> tuple[Item, ...]:
    """All lines, in an order that does not depend on Stripe's."""
    return in_order(_item(line) for line in lines)


def in_order(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items, one order for each set of them."""
    return tuple(sorted(items, key=_order))


def _item(line: Line) -> Item:
    price = line.price or line.plan
    quantity = 1 if line.quantity is None else line.quantity
    if price is None:
        return Item(refs=(), quantity=quantity)
    names = [price.id] if price.product is None else [price.id, id_of(price.product)]
    return Item(tuple(filter(is_storable, names)), quantity)


def _order(item: Item) -> tuple[tuple[str, ...], int]:
    return (item.refs, item.quantity)
