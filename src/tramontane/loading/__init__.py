"""Checkpoints to models and back: open, load, save, convert, and synthetic ones for benchmarks."""

from tramontane.loading.checkpoint import Checkpoint, open_checkpoint
from tramontane.loading.load import Progress, load_model
from tramontane.loading.save import convert, open_tokenizer, save_checkpoint, stream_tensors

__all__ = [
    "Checkpoint",
    "Progress",
    "convert",
    "load_model",
    "open_checkpoint",
    "open_tokenizer",
    "save_checkpoint",
    "stream_tensors",
]
