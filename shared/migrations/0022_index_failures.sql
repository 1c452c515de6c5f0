-- Which events somebody means, and what fails, among millions that were applied.

-- A tracking id begins with the millisecond of its receipt: the newest is the largest. Workers write
-- into these; nothing of receipt does. Where there are many settlements, they may be built
-- beforehand without making anybody wait, by the same statements with CONCURRENTLY (docs/events.md).
CREATE INDEX IF NOT EXISTS settlements_not_applied ON settlements (outcome, tracking_id)
    WHERE outcome <> 'applied';
CREATE INDEX IF NOT EXISTS settlements_by_code ON settlements (code, tracking_id)
    WHERE code IS NOT NULL;
CREATE INDEX IF NOT EXISTS settlements_of_replays ON settlements (tracking_id) WHERE run > 1;

-- An operator settles what nobody is to apply.
GRANT INSERT ON settlements TO sluice_operator;
