"""Benchmarks: `make bench`. Each figure beside what it is compared with, in one run."""
