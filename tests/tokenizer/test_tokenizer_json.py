"""tokenizer.json in the shapes that checkpoints on the hub have, against the tokenizers library on the whole file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from tests.tokenizer.corpus import EVERYTHING
from tests.tokenizer.vocabularies import saved
from tramontane.tokenizer import load_tokenizer

SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def metaspace(**changes: Any) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False, **changes}


def write(folder: Path, name: str, **changes: Any) -> Any:
    """tokenizer.json of vocabulary `name` with parts replaced; returns the library's own reading of it."""
    data = json.loads((saved(name) / "tokenizer.json").read_text())
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(data | changes))
    library = Library.from_file(str(path))
    library.encode_special_tokens = True
    return library


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("v1", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}}),
        ("v3", {"normalizer": None, "pre_tokenizer": metaspace()}),
        ("v3", {"normalizer": None, "pre_tokenizer": metaspace(prepend_scheme="always", split=True)}),
        ("v3", {"normalizer": None, "pre_tokenizer": metaspace(prepend_scheme="never")}),
        ("v3", {"normalizer": SPACES, "pre_tokenizer": None}),
        ("v7-small", {"pre_tokenizer": BYTE_LEVEL}),
    ],
)
def test_same_ids_and_text_as_the_library(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    library = write(tmp_path, name, **changes)
    tokenizer = load_tokenizer(tmp_path)
    for text in EVERYTHING:
        token_ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == token_ids, text
        if not tokenizer.adds_space or not text.startswith(" "):
            assert tokenizer.decode(token_ids) == text


@pytest.mark.parametrize("name", ["v3", "v7-small"])
def test_added_words_are_matched_whole(name: str, tmp_path: Path) -> None:
    data = json.loads((saved(name) / "tokenizer.json").read_text())
    size = len(data["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    added = [{"id": size, "content": "Tramontane", **flags}, {"id": size + 1, "content": "<table>", **flags}]
    library = write(tmp_path, name, added_tokens=[*data["added_tokens"], *added])
    tokenizer = load_tokenizer(tmp_path)
    for text in ("the Tramontane blows", "Tramontane", "<table>Tramontane</s><table>", "xTramontanex"):
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert size in tokenizer.encode(text)
        # With a space put before each stretch between added words, as sentencepiece files do, some are gained.
        assert tokenizer.decode(tokenizer.encode(text)) == library.decode(tokenizer.encode(text))
    assert tokenizer.vocab_size == size + 2
    assert not tokenizer.is_control(size)


def test_bos_and_eos_are_those_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((saved("v7-small") / "tokenizer.json").read_bytes())
    config = {"bos_token": {"content": "[INST]", "lstrip": False}, "eos_token": "[/INST]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.control_name(tokenizer.bos_id), tokenizer.control_name(tokenizer.eos_id)) == ("[INST]", "[/INST]")
