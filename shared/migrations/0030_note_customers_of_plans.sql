-- Whose customers a plan's events are, as it was when the plan was made: an event or an operator who
-- says otherwise changes what the plan would come to, without changing what anybody may use now.
CREATE TABLE replay_customers (
    plan      uuid NOT NULL REFERENCES replay_plans ON DELETE CASCADE,
    position  integer NOT NULL,
    source_id smallint NOT NULL,
    account   text COLLATE "C" NOT NULL,
    livemode  boolean NOT NULL,
    customer  text COLLATE "C" NOT NULL,
    tenant    text,                           -- the operator's link then
    PRIMARY KEY (plan, position)
);

GRANT SELECT ON replay_customers TO sluice_reader, sluice_worker, sluice_operator;
GRANT INSERT ON replay_customers TO sluice_worker;
