"""`python -m benchmarks.report FILE`: tables and plots of what `python -m benchmarks.bench` measured."""
