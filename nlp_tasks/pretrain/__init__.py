"""Further pretraining: words that are hidden in texts of a domain, or of a task, and restored."""
