"""Senders that are configuration only: any signature, any body."""
