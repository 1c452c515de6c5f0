"""Ask a provider what an object is now, and bring the answer back as an event."""
