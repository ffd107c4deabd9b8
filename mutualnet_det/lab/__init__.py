"""What proves the library, and is no part of using it: comparisons of methods, benchmarks."""
