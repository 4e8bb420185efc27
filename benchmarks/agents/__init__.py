"""`python -m benchmarks.agents`: agents turn after turn, every turn beside the full prefill of the same run.

`plan.py` says what is measured. `turns.py`, `promises.py`, `facts.py`, `anchor.py` and `uncalibrated.py` measure it,
`figures.py` says what must hold, and `page.py` writes the tables of the documentation.
"""
