"""Applies events. Knows commands and effects, nothing of HTTP."""
