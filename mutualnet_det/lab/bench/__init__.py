"""Benchmarks: slimmable against plain layers, mutual against ordinary training, tools of others."""
