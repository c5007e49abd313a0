"""What the package costs, beside its peers, in one run: see docs/performance.md."""
