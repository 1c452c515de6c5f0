-- Asking a provider what an object is now: the keys to ask with, who is to be asked about, and
-- how fast. What comes back is an event like any other, in ledger, inbox and work.

-- Ciphertext is AES-256-GCM, bound to (source name, slot -1, version, api_base) as associated
-- data: whoever can write here cannot have the key sent to somebody else.
CREATE TABLE source_keys (
    source_id  smallint PRIMARY KEY REFERENCES sources,
    version    integer NOT NULL,              -- of the configuration that brought it
    key_id     text NOT NULL,
    nonce      bytea NOT NULL,
    ciphertext bytea NOT NULL,
    api_base   text,                          -- NULL: the provider's own
    added_at   timestamptz NOT NULL DEFAULT now()
);

-- CACHE 1 is load-bearing: of two fetches of one object, the one claimed later has the larger
-- number, whichever session claimed it.
CREATE SEQUENCE fetch_numbers CACHE 1;

-- One row for each object that wants to be fetched. No foreign key: its check would wait for the
-- object's own lock.
CREATE TABLE fetches (
    object        bigint PRIMARY KEY,
    source_id     smallint NOT NULL,
    number        bigint,                     -- of the latest claim
    attempts      integer NOT NULL DEFAULT 0, -- failed ones in a row
    answers       integer NOT NULL DEFAULT 0,
    answer        uuid,                       -- the tracking id of the latest one
    asked_at      timestamptz NOT NULL DEFAULT now(), -- since when it wants to be fetched
    due_at        timestamptz NOT NULL,
    claimed_until timestamptz,
    last_code     text,
    last_error    text,
    CONSTRAINT claimed_by_number CHECK (claimed_until IS NULL OR number IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX fetches_due ON fetches (source_id, due_at);

-- How fast a source's provider may be asked, and whether it may be asked at all: one token bucket
-- and one circuit breaker for all workers, by the database's clock.
CREATE TABLE fetch_budgets (
    source_id   smallint PRIMARY KEY,
    key_version integer NOT NULL DEFAULT 0,   -- of the key that was used last; a newer one starts afresh
    tokens      double precision NOT NULL DEFAULT 0,
    refilled_at timestamptz,                  -- NULL: the bucket is full
    failures    integer NOT NULL DEFAULT 0,   -- of the provider, in a row
    open_until  timestamptz,                  -- the breaker is open; afterwards one may try
    probe       bigint,                       -- the number of that one
    last_error  text                          -- why it is open
) WITH (fillfactor = 50);

GRANT SELECT ON source_keys, fetches, fetch_budgets TO sluice_worker, sluice_operator;
GRANT INSERT, UPDATE, DELETE ON source_keys TO sluice_operator;
GRANT INSERT, UPDATE, DELETE ON fetches TO sluice_worker;
GRANT INSERT, UPDATE ON fetch_budgets TO sluice_worker;
GRANT USAGE ON SEQUENCE fetch_numbers TO sluice_worker;
-- An answer is an event, and nobody but the worker that fetched it can receive it.
GRANT INSERT ON ledger, inbox TO sluice_worker;
