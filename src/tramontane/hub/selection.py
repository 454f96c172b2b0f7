"""Which files of a repository make a model: one set of weights, or a LoRA adapter's, and what belongs to it."""

from __future__ import annotations

import re
from collections.abc import Collection

from tramontane.errors import CheckpointError

# the first kind of weights that is there is taken, so that nothing comes twice
_WEIGHTS = (
    r"model\.safetensors|model-\d{5}-of-\d{5}\.safetensors|model\.safetensors\.index\.json",
    r"consolidated\.safetensors|consolidated-\d{5}-of-\d{5}\.safetensors|consolidated\.safetensors\.index\.json",
    r"consolidated\.\d{2}\.pth",
    r"adapter_model\.safetensors|adapter_config\.json",
    r"lora\.safetensors",
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_BESIDE = re.compile(
    r"(config|params|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|tekken"
    r"|chat_template)\.json|chat_template\.jinja|tokenizer\.model(\.v\d{1,2}(m\d)?)?|SYSTEM_PROMPT\.txt"
    r"|(LICENSE|NOTICE)(\.txt|\.md)?|README\.md"
)


def select_files(files: Collection[str], wanted: str | None, repository: str) -> list[str]:
    """Names to pull, sorted; `wanted` is one .gguf file. Raises CheckpointError if that makes no model.

    Names are matched whole against fixed patterns: one that could lead out of the folder is never selected.
    """
    ggufs = sorted(name for name in files if name.endswith(".gguf"))
    whole_ggufs = [name for name in ggufs if not _SPLIT.search(name)]
    if wanted is not None:
        if wanted in ggufs and wanted not in whole_ggufs:
            raise CheckpointError(
                f"{repository}:{wanted} is one part of a split model, and parts are not read; "
                + (
                    f"name a whole file, of {_listed(whole_ggufs)}"
                    if whole_ggufs
                    else "join them with llama-gguf-split"
                )
            )
        if wanted not in ggufs:
            raise CheckpointError(f"{repository} has no file {wanted}; it has {_listed(ggufs)}")
        return [wanted]
    for pattern in _WEIGHTS:
        weights = {name for name in files if re.fullmatch(pattern, name)}
        if any(not name.endswith(".json") for name in weights):
            whole = weights & {"model.safetensors", "consolidated.safetensors"}  # comes before parts beside it
            return sorted((whole or weights) | {name for name in files if _BESIDE.fullmatch(name)})
    if ggufs and not whole_ggufs:
        raise CheckpointError(f"{repository} holds split GGUF files only ({_listed(ggufs)}), and parts are not read")
    if len(whole_ggufs) == 1:
        return whole_ggufs
    if ggufs:
        raise CheckpointError(f"{repository} holds GGUF files; name one, {repository}:FILE, of {_listed(whole_ggufs)}")
    if any(name.endswith((".bin", ".pt", ".pkl")) for name in files):
        raise CheckpointError(
            f"{repository} holds weights only as pickled .bin files, which can run code and are never read; "
            "use a repository with .safetensors"
        )
    raise CheckpointError(f"{repository} holds no weights that can be read (.safetensors, .pth or .gguf)")


def _listed(names: list[str]) -> str:
    shown = [name if name.isprintable() and len(name) < 100 else repr(name[:97]) for name in names[:8]]
    return (", ".join(shown) + (", ..." if len(names) > 8 else "")) or "no .gguf file"
