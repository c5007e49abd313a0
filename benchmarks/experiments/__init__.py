"""The published tables in small, on real data (docs/experiments.md)."""
