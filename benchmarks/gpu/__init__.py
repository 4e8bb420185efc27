"""What SemShare costs on an accelerator: parts that run one after the other, each in a process of its own."""
