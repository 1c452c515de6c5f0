"""
All SQL, one module per table family.

Plain functions that take `conn` first; a statement is an UPPER_CASE constant right above the one
function that uses it, with explicit columns and `$n` only. Every statement is prepared against the
migrated schema by `tests/contract/test_sql_prepares.py`.
"""
