"""How long work on a checkpoint says how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
