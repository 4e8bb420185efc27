"""Whether the working tree's engine does what an older commit's did: ``python -m benchmarks.same_engine``."""
