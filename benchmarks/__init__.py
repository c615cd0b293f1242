"""framefetch side by side with its peers: ``python -m benchmarks``; see README.md in this folder."""
