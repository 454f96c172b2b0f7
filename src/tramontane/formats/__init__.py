"""Files <-> named tensors: safetensors, torch's zip checkpoints and GGUF, under one table of names."""
