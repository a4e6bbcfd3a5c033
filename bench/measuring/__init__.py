"""What the benchmarks share: a load generator, the kernel's accounts of process trees, and how a result is written."""
