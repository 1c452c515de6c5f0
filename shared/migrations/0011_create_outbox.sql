-- What handlers have said to the outside. The tables are the state diagram of a message:
--
--   waiting ──▶ leased ─┬─▶ sent | dead        an `outbox` row exists exactly as long as it is not
--      ▲          │     │      dead ─▶ dropped done; a `sendings` row from then on
--      └──────────┴─────┘      dead ─▶ waiting (an operator retries it)
--
-- No foreign keys: messages leave only together with the rows that name them.

-- What was put in. Its key is what says that two messages are one, so it is kept longer than any
-- receiver may hear of them: at least 90 days.
CREATE TABLE messages (
    id          bigint PRIMARY KEY,           -- from message_numbers
    handler     text COLLATE "C" NOT NULL CHECK (octet_length(handler) BETWEEN 1 AND 63),
    key         text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    tracking_id uuid NOT NULL,                -- of the event that meant it
    payload     bytea NOT NULL,               -- JSON text; jsonb cannot hold all of it
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (handler, key)
);
CREATE INDEX messages_by_event ON messages (tracking_id);
CREATE SEQUENCE message_numbers;

-- What is not done: narrow and hot. A lease changes no indexed column, so it costs no index entry.
-- Leased rows stay in front of what is due, where a claim steps over them.
CREATE TABLE outbox (
    message      bigint PRIMARY KEY,
    handler      text COLLATE "C" NOT NULL,
    entered_at   timestamptz NOT NULL DEFAULT now(), -- since when it is to be sent
    due_at       timestamptz NOT NULL DEFAULT now(),
    attempts     integer NOT NULL DEFAULT 0 CHECK (attempts >= 0), -- counted as they begin
    lease_token  uuid,
    leased_until timestamptz,
    last_code    text,                        -- of the attempt that failed last
    last_error   text,
    CONSTRAINT leased_whole CHECK ((lease_token IS NULL) = (leased_until IS NULL)),
    CONSTRAINT failed_whole CHECK ((last_code IS NULL) = (last_error IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_due ON outbox (handler, due_at, message);

-- How it ended: one row per message that is done.
CREATE TABLE sendings (
    message  bigint PRIMARY KEY,
    handler  text COLLATE "C" NOT NULL,
    outcome  text NOT NULL CHECK (outcome IN ('sent', 'dead', 'dropped')),
    code     text,                            -- why it is dead
    error    text,
    attempts integer NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT only_the_dead_have_a_reason CHECK ((outcome = 'sent') = (code IS NULL))
);
CREATE INDEX sendings_dead ON sendings (handler, message) WHERE outcome = 'dead';

GRANT SELECT ON messages, outbox, sendings TO sluice_worker, sluice_operator, sluice_reader;
GRANT INSERT ON messages TO sluice_worker;
GRANT INSERT, UPDATE, DELETE ON outbox TO sluice_worker;
GRANT INSERT ON sendings TO sluice_worker;
GRANT USAGE ON SEQUENCE message_numbers TO sluice_worker;
-- Operators put a dead message back, or say that it is done with.
GRANT INSERT, UPDATE ON outbox TO sluice_operator;
GRANT UPDATE, DELETE ON sendings TO sluice_operator;
