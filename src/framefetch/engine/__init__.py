"""Many files at once: what to ask for next, when to ask again, and one attempt at one file."""
