"""The parts of ``python -m benchmarks.prefill``: each measures one promise beside the full prefill."""
