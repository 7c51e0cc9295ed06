"""Looks before and beside training: dry run, costs, pictures, benchmarks."""
