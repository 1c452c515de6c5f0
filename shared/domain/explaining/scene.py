"""What an answer speaks of: the grants of the feature, what gives them, and what does not."""

from collections.abc import Iterable
from itertools import chain
from uuid import UUID

from shared.domain.explanation import Facts
from shared.domain.keys import ObjectKey
from shared.domain.reasons import Missing, Sight, is_candidate, missing
from shared.domain.situations import Situation
from shared.domain.standings import microseconds_of
from shared.domain.states import ADVERSE_KINDS
from shared.domain.verdicts import NEEDS_PAYMENT


class Scene:
    """The facts, sorted by what they have to do with the feature."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.by_row = {one.neighbour.id: one for one in facts.situations.values()}
        self.gifts = {one.object_row: one for one in facts.given}
        self.held = [one for one in facts.held if one.grant.feature == facts.feature]
        self.live = [one for one in self.held if one.grant.is_live(facts.at)]
        self.grants = [one.grant for one in self.held]
        self.giving = {one.object_row for one in self.live}
        #: Objects that could give the feature and do not.
        self.lacking: list[tuple[Situation, Missing]] = list(self._find_lacking())

    def bearing(self) -> list[ObjectKey]:
        """The objects of which the answer speaks."""
        givers = (self.by_row[row] for row in self.giving if row in self.by_row)
        lacking = [situation for situation, _ in self.lacking]
        against = chain.from_iterable(self.holding(one) for one in lacking)
        found = (*givers, *lacking, *against, *self.loose())
        return list(dict.fromkeys(one.key for one in found))

    def latest(self) -> tuple[list[Sight], dict[UUID, list[str]]]:
        """What was seen of these, one for each event, newest first; and what each event saw."""
        objects: dict[UUID, list[str]] = {}
        sights: dict[UUID, tuple[int, Sight]] = {}
        for key in self.bearing():
            provider = self.facts.situations[key].origin.provider
            for sight in self.facts.sights.get(key, ()):
                objects.setdefault(sight.tracking_id, []).append(key.name)
                at = microseconds_of(provider, sight.observation.version)
                sights[sight.tracking_id] = (at, sight)
        newest_first = sorted(
            sights.values(), key=lambda one: (one[0], one[1].tracking_id), reverse=True
        )
        return [sight for _, sight in newest_first], objects

    def holding(self, situation: Situation) -> list[Situation]:
        """The refunds, disputes and warnings that keep an object from giving."""
        around = situation.around
        names = around.reversals or around.holds
        keys = (ObjectKey(*situation.key[:3], *name.split("/", 1)) for name in names)
        return [self.facts.situations[key] for key in keys if key in self.facts.situations]

    def loose(self) -> list[Situation]:
        """Those of the tenant's customers whose payments lead nowhere yet."""
        return [
            one
            for one in self.facts.situations.values()
            if one.tenant == self.facts.tenant
            and one.key.kind in ADVERSE_KINDS
            and one.verdict.parked == NEEDS_PAYMENT
        ]

    def is_written(self) -> bool:
        """Whether what is stored is what deciding came to."""
        for situation in self.facts.situations.values():
            row = situation.neighbour.id
            stored = {one.grant.identity for one in self.held if one.object_row == row}
            decided = {
                grant.identity
                for grant in situation.verdict.grants
                if (grant.tenant, grant.feature) == (self.facts.tenant, self.facts.feature)
            }
            if stored != decided:
                return False
        return True

    def _find_lacking(self) -> Iterable[tuple[Situation, Missing]]:
        facts = self.facts
        customers = frozenset(
            one.neighbour.owner
            for one in facts.situations.values()
            if one.tenant == facts.tenant and one.neighbour.owner is not None
        )
        for situation in facts.situations.values():
            row = situation.neighbour.id
            if row in self.giving or not is_candidate(situation, facts.tenant, customers):
                continue
            given = [one.grant for one in self.held if one.object_row == row]
            found = missing(situation, facts.feature, given, facts.at, facts.catalog)
            if found is not None:
                yield situation, found
