-- Operators begin jobs themselves, and pause them. A paused job keeps its state; a newer version's
-- pause means nothing to an older one, which goes on.
ALTER TABLE jobs ADD COLUMN paused_by text;

GRANT INSERT ON jobs TO sluice_operator;
GRANT UPDATE (paused_by) ON jobs TO sluice_operator;
