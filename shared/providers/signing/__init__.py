"""How requests are proven to be somebody's, for the providers that share a scheme."""
