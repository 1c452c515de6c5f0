"""Every provider of ours, and what proves that the proof notices."""
