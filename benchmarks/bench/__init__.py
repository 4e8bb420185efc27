"""`python -m benchmarks.bench`: every system on every workload, in one run, beside the full prefill.

`plan.py` says what is measured, `run.py` measures it, `metrics.py` and `figures.py` make numbers of the items.
"""
