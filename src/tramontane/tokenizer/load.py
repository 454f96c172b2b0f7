"""The tokenizer beside a checkpoint, found by what the files hold."""

from __future__ import annotations

import re
from pathlib import Path

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import Tokenizer
from tramontane.tokenizer.recognise import attach_chat
from tramontane.tokenizer.sentencepiece import load_sentencepiece
from tramontane.tokenizer.tekken import load_tekken
from tramontane.tokenizer.tokenizer_json import chat_template, load_tokenizer_json

# Mistral keeps the version of a sentencepiece vocabulary in its name: tokenizer.model.v3, .v7m1 (with images).
_DECLARED_VERSION = re.compile(r"\.model\.(v\d+)(m\d+)?$")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Tokenizer of a checkpoint folder, or of one tokenizer file.

    In a folder `tekken.json` comes before `tokenizer.model*`, these before `tokenizer.json`: the native files first.
    Raises TokenizerError naming the file that is missing, damaged or of an unknown kind.
    """
    path = Path(path)
    file = _find(path) if path.is_dir() else path
    if not file.is_file():
        raise TokenizerError(f"{file} does not exist; a checkpoint needs its tokenizer files beside it")
    template = chat_template(file.parent)
    if file.name == "tokenizer.json":
        tokenizer: Tokenizer = load_tokenizer_json(file)
        attach_chat(tokenizer, template=template)
    elif file.suffix == ".json":
        tekken = load_tekken(file)
        attach_chat(tekken, version=tekken.vocabulary.version)
        return tekken
    else:
        tokenizer = load_sentencepiece(file)
        declared = _DECLARED_VERSION.search(file.name)
        attach_chat(tokenizer, template=template, version=declared[1] if declared else None)
    return tokenizer


def _find(folder: Path) -> Path:
    models = sorted(file for file in folder.glob("tokenizer.model*") if file.is_file())
    # `tokenizer.model` may be of an older version than the `tokenizer.model.v3` beside it.
    candidates = [folder / "tekken.json", *reversed(models), folder / "tokenizer.json"]
    for file in candidates:
        if file.is_file():
            return file
    raise TokenizerError(f"{folder} has no tokenizer; it needs tekken.json, tokenizer.model or tokenizer.json")
