"""From a filled cache to an answer: sampling and stopping are transformers'."""
