-- Every key below holds (source, account, livemode): what one source says can never touch
-- what another said.

CREATE TABLE customers (
    source_id smallint NOT NULL,
    account   text COLLATE "C" NOT NULL,
    livemode  boolean NOT NULL,
    customer  text COLLATE "C" NOT NULL,
    tenant    text,                           -- the operator's link; links named by events are registers
    linked_by text,
    linked_at timestamptz,
    PRIMARY KEY (source_id, account, livemode, customer)
);
CREATE INDEX customers_by_tenant ON customers (tenant) WHERE tenant IS NOT NULL;

CREATE TABLE tenants (
    tenant          text COLLATE "C" PRIMARY KEY CHECK (octet_length(tenant) BETWEEN 1 AND 255),
    catalog_version bigint NOT NULL DEFAULT 0, -- of the catalog its grants were derived with
    created_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE INDEX tenants_by_catalog ON tenants (catalog_version);

-- A provider object and the cache of its register: the pure fold of its observations.
CREATE TABLE objects (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id  smallint NOT NULL,
    account    text COLLATE "C" NOT NULL,
    livemode   boolean NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    object_id  text COLLATE "C" NOT NULL,
    customer   text COLLATE "C",
    tenant     text COLLATE "C",
    register   json NOT NULL,
    parked     text,                          -- what it waits for; NULL: nothing
    parked_at  timestamptz,
    ambiguous  boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- The selective column leads in both keys: an index that shares only the source with a query
    -- must not look like a way to answer it.
    UNIQUE (object_id, kind, source_id, account, livemode),
    CONSTRAINT parked_since CHECK ((parked IS NULL) = (parked_at IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX objects_by_customer ON objects (customer, source_id, account, livemode);
CREATE INDEX objects_by_tenant ON objects (tenant) WHERE tenant IS NOT NULL;
CREATE INDEX objects_parked ON objects (parked_at) WHERE parked IS NOT NULL;
CREATE INDEX objects_ambiguous ON objects (id) WHERE ambiguous;

-- One narrow row per snapshot of an object. Insert-only, but for a replay, which replaces its
-- event's own row.
CREATE TABLE observations (
    object      bigint NOT NULL,
    observation text COLLATE "C" NOT NULL,    -- the event's id at the provider
    version     bigint NOT NULL,              -- in the provider's own clock: Stripe's `created`, in s
    shape       text NOT NULL CHECK (shape IN ('edge', 'arrival', 'point')),
    before      bigint,                       -- digests of the normalised state before and after
    after       bigint NOT NULL,
    state       json NOT NULL,
    tracking_id uuid NOT NULL,
    PRIMARY KEY (object, observation),
    CONSTRAINT edge_has_a_start CHECK ((shape = 'edge') = (before IS NOT NULL))
);
CREATE INDEX observations_by_event ON observations (tracking_id);

-- What one object gives, one row per plan and feature: always a full replacement, never a delta.
CREATE TABLE grants (
    object          bigint NOT NULL,
    plan            text COLLATE "C" NOT NULL,
    feature         text COLLATE "C" NOT NULL,
    tenant          text COLLATE "C" NOT NULL,
    value           json NOT NULL,            -- boolean, number, string; "unlimited" is a word of its own
    rank            integer NOT NULL,         -- of the plan: which string wins
    valid_from      timestamptz,              -- NULL: from ever
    valid_until     timestamptz,              -- NULL: open; set only for a scheduled end
    catalog_version bigint NOT NULL,
    PRIMARY KEY (object, plan, feature)
);
CREATE INDEX grants_by_tenant ON grants (tenant, feature);
