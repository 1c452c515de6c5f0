"""Long work: the process that does it step by step, and a module for each kind."""
