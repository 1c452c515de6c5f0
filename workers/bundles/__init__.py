"""Bundles: one tenant's dispute in a file, which is verified without us."""
