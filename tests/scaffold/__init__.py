"""What `sluice new` writes."""
