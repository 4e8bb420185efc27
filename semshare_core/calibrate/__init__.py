"""`semshare calibrate`: measure a model on pairs of prompts, and fit what its levels go by."""
