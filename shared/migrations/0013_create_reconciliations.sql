-- Asking a provider for all of its customers, one after the other, again and again: how far the
-- round of each source is, and who was looked at in it.

-- A round: the pages of the provider's list, one at a time (`customers` are those of the page that
-- are still to be looked at), then whoever has something here and was on no page.
CREATE TABLE reconciliations (
    source_id     smallint PRIMARY KEY,
    round         integer NOT NULL DEFAULT 0,
    phase         text CHECK (phase IN ('listed', 'unlisted')),  -- NULL: between two rounds
    page          integer NOT NULL DEFAULT 1,                    -- the next one to be read
    customers     text[] NOT NULL DEFAULT '{}',
    begun_at      timestamptz,
    finished_at   timestamptz,                                   -- the last round that came to its end
    looked_at     integer NOT NULL DEFAULT 0,                    -- customers, in this round
    different     integer NOT NULL DEFAULT 0,                    -- of those, by whom something was news
    failed        integer NOT NULL DEFAULT 0,                    -- of those, who could not be had
    claim         bigint,                                        -- the number of the latest claim
    claimed_until timestamptz,
    failures      integer NOT NULL DEFAULT 0,                    -- in a row
    due_at        timestamptz NOT NULL DEFAULT now(),
    last_error    text,
    added_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT begun_has_its_time CHECK (phase IS NULL OR begun_at IS NOT NULL),
    CONSTRAINT claimed_by_number CHECK (claimed_until IS NULL OR claim IS NOT NULL)
) WITH (fillfactor = 50);

CREATE TABLE reconciled_customers (
    source_id smallint NOT NULL,
    customer  text NOT NULL,
    round     integer NOT NULL,               -- the last one in which the customer was looked at
    PRIMARY KEY (source_id, customer)
) WITH (fillfactor = 70);

-- Up to when a fetch knows, where its version is the object's own.
ALTER TABLE observations ADD COLUMN floor bigint;

GRANT SELECT ON reconciliations, reconciled_customers TO sluice_worker;
GRANT INSERT, UPDATE ON reconciliations, reconciled_customers TO sluice_worker;
GRANT SELECT ON reconciliations TO sluice_operator;
