"""Things to run and to read: how SemShare is used. ``python -m cookbook.demo`` is the place to start."""

import logging

for _name in ("torchao", "torch.utils._pytree"):  # where torchao is installed, it says at length what the CPU lacks
    logging.getLogger(_name).setLevel(logging.ERROR)
