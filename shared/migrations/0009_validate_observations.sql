-- A migration of its own: reading every observation must lock nobody out.
ALTER TABLE observations VALIDATE CONSTRAINT observations_shape_check;
ALTER TABLE observations VALIDATE CONSTRAINT fetch_is_numbered;
