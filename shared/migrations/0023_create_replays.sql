-- What a plan means to have applied again: a frozen list of events, and what stood where it was made.
-- A job of the kind "replay-plan" writes it, one of the kind "replay" carries it out.
CREATE TABLE replay_plans (
    plan          uuid PRIMARY KEY,           -- the job that made it
    made_at       timestamptz NOT NULL DEFAULT now(),
    configuration integer NOT NULL,           -- by which version its effect was found
    snapshot      text NOT NULL,              -- pg_current_snapshot(): what the trail held then
    run_by        uuid                        -- the last job that took it to carry it out
);

-- One row per event. The largest position is the oldest event, and is opened first.
CREATE TABLE replay_items (
    plan        uuid NOT NULL,
    position    bigint NOT NULL,
    tracking_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    source_id   smallint,                     -- NULL: of an event that is not known
    lane        integer,
    run         integer,                      -- the settled run that was its latest then
    code        text,                         -- why it is not applied again
    replay      uuid,                         -- the job that opened its next run, or passed it over
    opened_run  integer,
    settled     boolean NOT NULL DEFAULT false, -- that job has counted how the run ended
    PRIMARY KEY (plan, position),
    CONSTRAINT replayable_says_where
        CHECK (code IS NOT NULL OR num_nulls(source_id, lane, run) = 0),
    CONSTRAINT opened_or_left_out CHECK (opened_run IS NULL OR code IS NULL),
    CONSTRAINT gone_through_by_a_job
        CHECK ((replay IS NOT NULL OR opened_run IS NULL) AND
               (replay IS NULL OR num_nonnulls(opened_run, code) = 1) AND
               (NOT settled OR opened_run IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX replay_items_to_open ON replay_items (plan, position)
    WHERE code IS NULL AND replay IS NULL;
CREATE INDEX replay_items_unsettled ON replay_items (replay)
    WHERE opened_run IS NOT NULL AND NOT settled;
CREATE INDEX replay_items_by_run ON replay_items (tracking_id, opened_run)
    WHERE opened_run IS NOT NULL;
CREATE INDEX replay_items_by_replay ON replay_items (replay, position) WHERE replay IS NOT NULL;

-- Whose entitlements its effect was found from.
CREATE TABLE replay_tenants (
    plan   uuid NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    PRIMARY KEY (plan, tenant)
);

GRANT SELECT ON replay_plans, replay_items, replay_tenants
    TO sluice_reader, sluice_worker, sluice_operator;
GRANT INSERT ON replay_plans, replay_items, replay_tenants TO sluice_worker;
GRANT UPDATE (run_by) ON replay_plans TO sluice_worker;
GRANT UPDATE (code, replay, opened_run, settled) ON replay_items TO sluice_worker;
