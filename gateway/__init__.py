"""Receives and answers: HTTP on one side, the inbox on the other. Applies nothing."""
