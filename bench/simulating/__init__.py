"""Worlds in which releases are judged, and the rules that judge them; for benchmarks."""
