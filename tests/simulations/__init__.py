"""Worlds that are drawn from a seed and run until a promise breaks or all is done: `python -m tests.simulations`."""
