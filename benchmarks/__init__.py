"""What the package costs, beside its peers, in one run (docs/performance.md), and how good its segments are."""
