"""The machine and the environment: device, dtype, threads and the TRAMONTANE_* variables.

torch is imported inside the functions that need it, so that the command line starts without it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tramontane.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
DTYPES = ("auto", "float32", "bfloat16", "float16")


ENVIRONMENT_OF_CHILDREN = frozenset(
    {"PATH", "PYTHONPATH", "PYTHONHOME", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE"}
    | {"SYSTEMROOT", "APPDATA", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
"""Where programs, libraries and packages lie, and in which language to write. Passwords and tokens lie in the
environment too, and are no business of a child process."""


def environment_of_child(more: Collection[str] = (), prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """What a child process sees of the environment; `more` names, and what begins with `prefixes`, besides."""
    names = ENVIRONMENT_OF_CHILDREN.union(more)
    return {name: value for name, value in os.environ.items() if name.upper() in names or name.startswith(prefixes)}


def home() -> Path:
    """Folder of pulled checkpoints, packed weights and state: `TRAMONTANE_HOME`, else `~/.cache/tramontane`."""
    return Path(os.environ.get("TRAMONTANE_HOME") or Path.home() / ".cache" / "tramontane")


def packed_cache_bytes() -> int:
    """What packed weights may take under `home()`: `TRAMONTANE_PACKED_CACHE_GIB` (0: none are kept), else 32 GiB.

    Raises ConfigError if the variable is no number from 0 up.
    """
    text = os.environ.get("TRAMONTANE_PACKED_CACHE_GIB") or "32"
    try:
        size_gib = float(text)
    except ValueError:
        size_gib = -1.0
    if not 0 <= size_gib < 2**20:
        raise ConfigError(f"TRAMONTANE_PACKED_CACHE_GIB={text!r} is not a size in GiB, from 0 up")
    return int(size_gib * 2**30)


def resolve_device(device: str = "auto") -> torch.device:
    """`auto` is the GPU where torch sees one. Raises ConfigError for a name torch does not know or lacks."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if resolved.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu"
        )
    return resolved


def resolve_dtype(dtype: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Compute dtype. `auto` keeps what the checkpoint stores, but float16 becomes bfloat16 on a CPU.

    Raises ConfigError for an unknown name.
    """
    import torch

    if dtype == "auto":
        return torch.bfloat16 if stored == torch.float16 and device.type == "cpu" else stored
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix products of it are fast: on a GPU, and on a CPU that has instructions for them
    (AVX512_BF16, AMX); float32 elsewhere."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)
    capabilities = {} if get_capabilities is None else get_capabilities()
    is_fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if is_fast else torch.float32


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next allocation where it would hand it back to the system: tensors
    of a few MiB that come and go would be mapped and zeroed each time (glibc; elsewhere nothing changes)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Hand what the C library keeps of freed memory back to the system (glibc; elsewhere nothing happens)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def set_threads(threads: int | None) -> int:
    """Use `threads` CPU threads (None: `TRAMONTANE_THREADS`, else torch's default); returns the number in use."""
    import torch

    if threads is None:
        text = os.environ.get("TRAMONTANE_THREADS")
        if text is not None:
            if not text.isdigit():
                raise ConfigError(f"TRAMONTANE_THREADS={text!r} is not a whole number")
            threads = int(text)
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"threads={threads} must be at least 1")
        torch.set_num_threads(threads)
    return torch.get_num_threads()
