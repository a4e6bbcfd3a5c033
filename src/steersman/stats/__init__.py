"""Pure numerics: intervals, metrics, profiles and drift. NumPy only; no clock, disk, network or randomness."""
