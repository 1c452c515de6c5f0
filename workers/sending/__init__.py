"""Sending: what the outbox holds, brought outside by the handlers that put it there."""
