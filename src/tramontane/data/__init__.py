"""From raw text and conversations to packed token shards, and back out as deterministic batches.

Nothing is imported here: `loader` must work where only numpy and torch are installed.
"""
