"""Checkpoints to models and back: open, load, save, convert, and synthetic ones for benchmarks."""

from tramontane.loading.checkpoint import Checkpoint, open_checkpoint
from tramontane.loading.load import Progress, load_model
from tramontane.loading.save import convert, open_tokenizer, save_checkpoint, stream_tensors
from tramontane.loading.shapes import SHAPES, named_shape
from tramontane.loading.synth import synthesise, tokenizer_of_size

__all__ = [
    "SHAPES",
    "Checkpoint",
    "Progress",
    "convert",
    "load_model",
    "named_shape",
    "open_checkpoint",
    "open_tokenizer",
    "save_checkpoint",
    "stream_tensors",
    "synthesise",
    "tokenizer_of_size",
]
