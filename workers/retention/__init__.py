"""How long what is kept, and forgetting it when its time is over."""
