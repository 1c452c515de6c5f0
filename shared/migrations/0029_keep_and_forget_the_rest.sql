-- What was made beside 0027 and 0028 has its time too, and what they left open is closed.

-- A sealing key that is lost takes the private half of the audit key with it: that goes, so that
-- nobody has to have the sealing key to start.
GRANT DELETE ON audit_key_secrets TO sluice_operator;
