-- Objects that name the same payment belong together: a refund or a dispute names nobody, only a
-- charge or a payment intent. A joint's row is nothing but the lock under which such objects meet.

CREATE TABLE joints (
    source_id smallint NOT NULL,
    account   text COLLATE "C" NOT NULL,
    livemode  boolean NOT NULL,
    joint     text COLLATE "C" NOT NULL,      -- "payment_intent/pi_1", "charge/ch_1", "invoice/in_1"
    PRIMARY KEY (joint, source_id, account, livemode)
);

ALTER TABLE objects
    ADD COLUMN joints  text[] COLLATE "C",    -- NULL: it joins nothing
    ADD COLUMN adverse boolean NOT NULL DEFAULT false, -- speaks against what its payment was for
    ADD COLUMN wants   text;                  -- why a fetch would help; NULL: it would not
-- No pending list: every reader would have to search it.
CREATE INDEX objects_by_joint ON objects USING gin (joints) WITH (fastupdate = off);
CREATE INDEX objects_wanting ON objects (id) WHERE wants IS NOT NULL;
UPDATE objects SET wants = 'order' WHERE ambiguous;

ALTER TABLE observations
    ADD COLUMN ceiling bigint,                -- of a fetch: nothing later is in it
    ADD COLUMN number  bigint,                -- of a fetch: taken before it was asked for
    DROP CONSTRAINT observations_shape_check,
    ADD CONSTRAINT observations_shape_check
        CHECK (shape IN ('edge', 'arrival', 'point', 'fetch', 'hint')) NOT VALID,
    ADD CONSTRAINT fetch_is_numbered
        CHECK ((shape = 'fetch') = (number IS NOT NULL AND ceiling IS NOT NULL)) NOT VALID;

-- What adds is added to what others give; the rest competes with it.
ALTER TABLE grants ADD COLUMN adds boolean NOT NULL DEFAULT false;

-- What had neither customer nor payment stood under no lock.
UPDATE objects SET joints = ARRAY['checkout.session/' || object_id]
WHERE kind = 'checkout.session' AND customer IS NULL;

GRANT USAGE ON SEQUENCE objects_id_seq TO sluice_operator;
GRANT SELECT ON joints TO sluice_reader;
GRANT SELECT, INSERT ON joints TO sluice_worker, sluice_operator;
GRANT UPDATE (joint) ON joints TO sluice_worker, sluice_operator; -- what FOR UPDATE asks for; never used to write
