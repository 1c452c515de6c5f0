"""The contract between the processes: domain, providers, store, and the doors to the outside."""
