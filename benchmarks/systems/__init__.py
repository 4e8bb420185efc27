"""What is measured on the workloads: each system is a small file, and all give the same sample of the same case.

`catalogue.SYSTEMS` has those that run in the benchmark's process, by name; `peer.peer_samples` asks the others.
"""

from benchmarks.systems.catalogue import SYSTEMS
from benchmarks.systems.system import Prefilled, Sample, Subject, System

__all__ = ["SYSTEMS", "Prefilled", "Sample", "Subject", "System"]
