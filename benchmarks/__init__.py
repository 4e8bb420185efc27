"""Measurements of SemShare beside a full prefill: texts, workloads made of them, and the programs that run them."""
