"""Checkpoints to models and back: open, load, save, convert, and synthetic ones for benchmarks."""

from tramontane.loading.checkpoint import Checkpoint, open_checkpoint
from tramontane.loading.load import load_model
from tramontane.loading.progress import Progress
from tramontane.loading.save import convert, save_checkpoint, stream_tensors
from tramontane.loading.shapes import SHAPES, named_shape
from tramontane.loading.synth import synthesise, tokenizer_of_size
from tramontane.loading.tokenizer import find_tokenizer, open_tokenizer
from tramontane.loading.weight_formats import resolve_weight_format

__all__ = [
    "SHAPES",
    "Checkpoint",
    "Progress",
    "convert",
    "find_tokenizer",
    "load_model",
    "named_shape",
    "open_checkpoint",
    "open_tokenizer",
    "resolve_weight_format",
    "save_checkpoint",
    "stream_tensors",
    "synthesise",
    "tokenizer_of_size",
]
