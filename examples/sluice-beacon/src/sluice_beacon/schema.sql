-- What the handler `beacon-usage` writes. The owner of Sluice's database runs it, once:
--     sluice db run schema.sql
-- Handlers act as the role sluice_extension, which may do what is granted to it here, and nothing
-- to the tables of Sluice's own.

CREATE SCHEMA beacon;
GRANT USAGE ON SCHEMA beacon TO sluice_extension;

CREATE TABLE beacon.licences (
    licence   text PRIMARY KEY,
    closed_at timestamptz
);
GRANT SELECT ON beacon.licences TO sluice_extension;

CREATE TABLE beacon.usage (
    licence text NOT NULL,
    day     date NOT NULL,
    units   numeric NOT NULL,
    PRIMARY KEY (licence, day)
);
GRANT SELECT, INSERT, UPDATE ON beacon.usage TO sluice_extension;
