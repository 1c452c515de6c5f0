"""Real servers and our own processes on one machine: `sluice up`, `sluice worker`, the tests."""
