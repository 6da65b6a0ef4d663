"""Entry points: arguments and wiring, nothing else."""
