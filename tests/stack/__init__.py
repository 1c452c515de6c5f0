"""Supervisor, embedded servers, `sluice up` and `sluice doctor`: real processes throughout."""
