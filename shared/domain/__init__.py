"""The rules, as pure functions of their arguments. No I/O, no clock, no environment."""
