"""Which chat format a vocabulary gets, from control tokens, declared versions and features of templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer.vocabularies import FILES, ours, path_of, saved, small_tekken, tiny_sentencepiece
from tramontane.errors import TokenizerError
from tramontane.tokenizer import Tokenizer, gguf_tokenizer, load_tokenizer
from tramontane.tokenizer.recognise import recognise

MISTRAL = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]"


class Named(Tokenizer):
    """Only control names and the place of the single space."""

    def __init__(self, *names: str, space_id: int = 5) -> None:
        pieces = [b"", b"", *[b"x"] * 32_000]
        pieces[space_id] = b" "
        control = {0: "<s>", 1: "</s>", **{10 + place: name for place, name in enumerate(names)}}
        super().__init__(pieces, control, bos_id=0, eos_id=1, adds_space=True)

    def _encode_text(self, text: str) -> list[int]:
        raise NotImplementedError

    def gguf_metadata(self) -> dict[str, object]:
        raise NotImplementedError

    def save(self, folder: Path) -> list[Path]:
        raise NotImplementedError


INST = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
SYSTEM = (*INST, "[SYSTEM_PROMPT]", "[TOOL_CONTENT]")


@pytest.mark.parametrize(
    ("names", "space_id", "template", "expected"),
    [
        ((), 28705, None, "v1"),
        ((), 29871, None, "llama2"),
        ((), 77, None, None),
        ((), 28705, MISTRAL, "v1"),
        ((), 28705, MISTRAL + "<<SYS>>", "llama2"),
        ((), 28705, "<|im_start|>{{ role }}", None),
        (("▁<PRE>",), 77, None, "llama2"),
        (INST, 5, None, "v3"),
        (INST, 5, MISTRAL, "v3"),
        (SYSTEM, 5, MISTRAL, "v3"),  # Nemo reserves the names of v7
        (SYSTEM, 5, None, "v7"),
        (SYSTEM, 5, MISTRAL + "[SYSTEM_PROMPT]", "v7"),
        ((*SYSTEM, "[ARGS]", "[CALL_ID]"), 5, None, "v11"),
        ((*SYSTEM, "[ARGS]", "[CALL_ID]", "[THINK]"), 5, None, "v13"),
        ((*SYSTEM, "[ARGS]", "[CALL_ID]"), 5, MISTRAL + "[SYSTEM_PROMPT][ARGS]", "v13"),
        ((*SYSTEM, "[ARGS]", "[CALL_ID]"), 5, MISTRAL + "[SYSTEM_PROMPT][CALL_ID][ARGS]", "v11"),
        ((*SYSTEM, "[ARGS]", "[MODEL_SETTINGS]"), 5, None, "v15"),
        (SYSTEM, 5, "<|user|>{{ content }}", None),
        (SYSTEM, 5, MISTRAL + "<|im_start|>assistant", None),  # a fine-tune's own, with what it kept of the base's
        (SYSTEM, 5, MISTRAL + "<<SYS>>", None),
        ((), 28705, MISTRAL + "### Response:", None),
        ((), 29871, MISTRAL + " ASSISTANT: ", None),
    ],
)
def test_features_name_the_format(
    names: tuple[str, ...], space_id: int, template: str | None, expected: str | None
) -> None:
    assert recognise(Named(*names, space_id=space_id), template) == expected


@pytest.mark.parametrize("name", FILES)
def test_native_files_name_their_version(name: str) -> None:
    assert ours(name).require_chat().name == name.partition("-")[0]


def test_an_undeclared_tokenizer_model_is_known_by_its_control_tokens(tmp_path: Path) -> None:
    for name, expected in (("v1", "v1"), ("v3", "v3"), ("v7", "v7")):
        (tmp_path / "tokenizer.model").write_bytes(path_of(name).read_bytes())
        assert load_tokenizer(tmp_path).require_chat().name == expected


def test_a_declared_model_comes_before_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(path_of("v1").read_bytes())
    (tmp_path / "tokenizer.model.v3").write_bytes(path_of("v3").read_bytes())
    assert load_tokenizer(tmp_path).require_chat().name == "v3"


def test_a_foreign_template_beside_a_known_vocabulary_is_not_guessed_over(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(path_of("v1").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<|im_start|>{{ x }}"}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat is None
    with pytest.raises(TokenizerError, match="cannot chat: its chat template is of a format that is not known here"):
        tokenizer.require_chat()


@pytest.mark.parametrize(
    "template", [[{"name": "tool_use", "template": "x"}, {"name": "default", "template": MISTRAL}], MISTRAL]
)
def test_templates_in_a_list_and_in_a_file_of_their_own(template: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((saved("v7-small") / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert load_tokenizer(tmp_path).require_chat().name == "v3"
    (tmp_path / "chat_template.jinja").write_text(MISTRAL + "[SYSTEM_PROMPT]")
    assert load_tokenizer(tmp_path).require_chat().name == "v7"


def test_a_version_that_is_not_supported_is_named(tmp_path: Path) -> None:
    data = small_tekken("v13")
    (tmp_path / "tekken.json").write_text(json.dumps({**data, "config": {**data["config"], "version": "v15"}}))
    with pytest.raises(
        TokenizerError, match=r"format v15 is not supported \(known: v1, v2, v3, v7, v11, v13, llama2\)"
    ):
        load_tokenizer(tmp_path).require_chat()


def test_a_version_without_its_control_tokens_is_named(tmp_path: Path) -> None:
    data = small_tekken("v7")
    (tmp_path / "tekken.json").write_text(json.dumps({**data, "config": {**data["config"], "version": "v11"}}))
    with pytest.raises(TokenizerError, match=r"its format v11 asks for more: .* no control token \[ARGS\]"):
        load_tokenizer(tmp_path).require_chat()


def test_a_gguf_template_decides() -> None:
    metadata = load_tokenizer(path_of("v7-small")).gguf_metadata()
    assert gguf_tokenizer(metadata).require_chat().name == "v7"
    assert gguf_tokenizer({**metadata, "tokenizer.chat_template": MISTRAL}).require_chat().name == "v3"
    del metadata["tokenizer.chat_template"]
    assert gguf_tokenizer(metadata).require_chat().name == "v7"
    assert gguf_tokenizer(tiny_sentencepiece().gguf_metadata()).chat is None
