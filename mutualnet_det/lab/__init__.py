"""Proofs of the library, which using it does not need: comparisons of methods, benchmarks."""
