"""What is measured: prompts in pairs and conversations, as plain text. Nothing here knows the engine.

Every builder takes its source texts and its token counter as arguments, so a workload is the same for the same
arguments, and a test can run it on a few made-up lines. What the systems are given is a list of `benchmarks.case.Case`:
some builders return one, the pairs of the others become one by a function beside them (`code_cases` and its like).
"""
