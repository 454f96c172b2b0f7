"""The small files beside a vocabulary, in the combinations that fine-tunes leave: transformers judges, or both files
are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.tokenizer.vocabularies import path_of, saved, small_tekken
from tramontane.errors import TokenizerError
from tramontane.tokenizer import Tokenizer, gguf_tokenizer, load_tokenizer

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
END, START, WORD = "<|im_end|>", "<|im_start|>", "<|word|>"
TEXTS = ("hello", f"a {WORD} b", f"a{WORD}b", f"  {WORD}  x", "", " Tramontane\n", f"{WORD}{WORD}")
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def flags(content: str, **changes: bool) -> dict[str, Any]:
    off = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, **off, "special": True, **changes}


def write(folder: Path, base: str, files: dict[str, Any], *, whole: bool = True, **changes: Any) -> Path:
    """A folder with the vocabulary `base`, as tokenizer.json or the native file, and `files` beside it."""
    if whole:
        data = json.loads((saved(base) / "tokenizer.json").read_text()) | changes
        (folder / "tokenizer.json").write_text(json.dumps(data))
    else:
        (folder / "tokenizer.model").write_bytes(path_of(base).read_bytes())
    (folder / "config.json").write_text('{"model_type": "mistral"}')
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def in_transformers(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


SIZES = {"v1": 32000, "v7-small": 1024}
COMBINATIONS: dict[str, Any] = {
    "added_tokens": lambda n: {
        ADDED: {END: n, START: n + 1},
        CONFIG: {"bos_token": "<s>", "eos_token": END, "additional_special_tokens": [START]},
    },
    "added_tokens_without_roles": lambda n: {ADDED: {WORD: n}, CONFIG: {"bos_token": "<s>", "eos_token": "</s>"}},
    "decoder": lambda n: {
        CONFIG: {
            "added_tokens_decoder": {"0": flags("<unk>"), str(n): flags(END), str(n + 1): flags(WORD, special=False)},
            "bos_token": "<s>",
            "eos_token": END,
        }
    },
    "map_of_objects": lambda n: {
        MAP: {"bos_token": flags("<s>"), "eos_token": flags(END), "additional_special_tokens": [START]}
    },
    "map_over_config": lambda n: {
        MAP: {"bos_token": "<s>", "eos_token": END},
        CONFIG: {"bos_token": "<s>", "eos_token": "</s>"},
    },
    "roles_of_no_token": lambda n: {
        CONFIG: {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "", "sep_token": None}
    },
    "roles_alone": lambda n: {CONFIG: {"bos_token": "<s>", "eos_token": END, "pad_token": "<|pad|>"}},
    "extra_list": lambda n: {CONFIG: {"bos_token": "<s>", "eos_token": "</s>", "extra_special_tokens": [END, START]}},
    "extra_object": lambda n: {
        CONFIG: {"bos_token": "<s>", "eos_token": "</s>", "extra_special_tokens": {"image_token": START}}
    },
    "stripping": lambda n: {
        CONFIG: {
            "added_tokens_decoder": {str(n): flags(WORD, special=False, lstrip=True, rstrip=True)},
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
    },
    "single_word": lambda n: {
        CONFIG: {
            "added_tokens_decoder": {str(n): flags(WORD, special=False, single_word=True)},
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
    },
    "normalized": lambda n: {
        CONFIG: {
            "added_tokens_decoder": {str(n): flags(WORD, special=False, normalized=True)},
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
    },
}


@pytest.mark.parametrize("base", SIZES)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_whole_file_and_those_beside_it_are_read_as_transformers_reads_them(
    combination: str, base: str, tmp_path: Path
) -> None:
    write(tmp_path, base, COMBINATIONS[combination](SIZES[base]))
    tokenizer, judge = load_tokenizer(tmp_path), in_transformers(tmp_path)
    assert tokenizer.vocab_size == len(judge)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (judge.bos_token_id, judge.eos_token_id)
    for name, token_id in judge.get_added_vocab().items():
        assert tokenizer.is_control(token_id) == judge.added_tokens_decoder[token_id].special
        if tokenizer.is_control(token_id):
            assert tokenizer.control_id(name) == token_id
    for text in TEXTS:  # nothing in them is a special token, which we never find in a text
        token_ids = judge(text)["input_ids"]
        assert tokenizer.encode_prompt(text) == token_ids, text
        assert tokenizer.decode(token_ids) == judge.decode(token_ids, skip_special_tokens=True), text


@pytest.mark.parametrize("combination", ["added_tokens", "decoder", "roles_alone", "stripping"])
def test_a_native_file_gets_the_same_tokens(combination: str, tmp_path: Path) -> None:
    """The installed transformers cannot read a tokenizer.model by itself: its tokenizer.json judges."""
    files = COMBINATIONS[combination](32000)
    (tmp_path / "native").mkdir()
    (tmp_path / "whole").mkdir()
    native = load_tokenizer(write(tmp_path / "native", "v1", files, whole=False))
    judge = in_transformers(write(tmp_path / "whole", "v1", files))
    assert (native.vocab_size, native.eos_id) == (len(judge), judge.eos_token_id)
    for text in TEXTS:
        assert native.encode_prompt(text) == judge(text)["input_ids"], text
    native.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.vocab_size, again.eos_id) == (native.vocab_size, native.eos_id)
    assert [again.encode(text) for text in TEXTS] == [native.encode(text) for text in TEXTS]


def test_a_fine_tunes_own_file_comes_before_the_bases_native_one(tmp_path: Path) -> None:
    write(tmp_path, "v1", COMBINATIONS["decoder"](32000))
    (tmp_path / "tokenizer.model").write_bytes(path_of("v1").read_bytes())
    assert load_tokenizer(tmp_path).vocab_size == 32002


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({ADDED: {END: 32005}}, r"added_tokens.json gives '<\|im_end\|>' id 32005, but after .* free one is 32000"),
        ({ADDED: {END: 5}}, r"added_tokens.json gives id 5 to '<\|im_end\|>', but .* has '<0x02>' there"),
        ({ADDED: {"</s>": 7}}, "added_tokens.json gives '</s>' id 7, but .* has it as 2"),
        (
            {ADDED: {END: 32001}, CONFIG: {"added_tokens_decoder": {"32000": flags(END)}}},
            "added_tokens.json gives .* id 32001, but added_tokens_decoder of .*tokenizer_config.json says 32000",
        ),
        (
            {ADDED: {END: 32000}, CONFIG: {"added_tokens_decoder": {}}},
            "added_tokens.json gives .*tokenizer_config.json leaves it out",
        ),
        ({CONFIG: {"eos_token": 5}}, "tokenizer_config.json.*: eos_token must name a token"),
        ({CONFIG: {"added_tokens_decoder": {"x": {}}}}, "must be an object under a token id"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_files_that_disagree_are_named(files: dict[str, Any], message: str, whole: bool, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(write(tmp_path, "v1", files, whole=whole))


def test_a_tekken_file_has_no_room_for_more(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken("v7")))
    (tmp_path / CONFIG).write_text(json.dumps({"eos_token": END}))
    with pytest.raises(TokenizerError, match=r"it has no token '<\|im_end\|>' \(.*tokenizer_config.json\)"):
        load_tokenizer(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"eos_token": "[/INST]"}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.control_name(tokenizer.eos_id) == "[/INST]"


FOREIGN = {"type": "Split", "pattern": {"Regex": r"\p{L}+"}, "behavior": "Isolated", "invert": False}


def test_a_native_file_of_the_same_tokens_stands_in_for_a_split_that_is_not_known(tmp_path: Path) -> None:
    """As in Mistral's repositories whose tokenizer.json was converted with another regular expression."""
    write(tmp_path, "v7-small", {}, pre_tokenizer=FOREIGN)
    with pytest.raises(TokenizerError, match=r"pre_tokenizer .* is not supported"):
        load_tokenizer(tmp_path)
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken("v7")))
    assert load_tokenizer(tmp_path).require_chat().name == "v7"
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken("v13")))  # other control tokens
    with pytest.raises(TokenizerError, match=r"is not supported, and tekken\.json beside it holds another vocabulary"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("where", ["chat_template.jinja", CONFIG, "chat_template.json"])
def test_the_chat_format_is_that_of_the_template_whatever_lies_beside_it(
    where: str, native: bool, tmp_path: Path
) -> None:
    write(tmp_path, "v7-small", {where: CHATML if where.endswith("jinja") else {"chat_template": CHATML}})
    if native:
        (tmp_path / "tekken.json").write_text(json.dumps(small_tekken("v7")))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat is None
    assert tokenizer.chat_reason == "its chat template is of a format that is not known here"


@pytest.mark.parametrize("base", ["v3", "v7-small"])
def test_a_template_that_is_not_known_here_goes_along(base: str, tmp_path: Path) -> None:
    """Without it the control tokens alone would tell Mistral's format, which the model was not trained in."""
    tokenizer = load_tokenizer(write(tmp_path, base, {"chat_template.jinja": CHATML}))
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again")
    metadata = tokenizer.gguf_metadata()
    assert metadata["tokenizer.chat_template"] == CHATML
    again = gguf_tokenizer(metadata)
    (tmp_path / "from_gguf").mkdir()
    again.save(tmp_path / "from_gguf")
    for each in (load_tokenizer(tmp_path / "again"), again, load_tokenizer(tmp_path / "from_gguf")):
        assert each.chat is None
    assert in_transformers(tmp_path / "from_gguf").chat_template == CHATML


def test_a_tekken_file_alone_beside_a_template_is_no_exception(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken("v7")))
    assert load_tokenizer(tmp_path).require_chat().name == "v7"
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert load_tokenizer(tmp_path).chat is None


def test_without_a_template_the_native_file_says_the_version(tmp_path: Path) -> None:
    write(tmp_path, "v2", {})
    assert load_tokenizer(tmp_path).require_chat().name == "v3"  # by its control tokens, which are the same
    (tmp_path / "tokenizer.model.v2").write_bytes(path_of("v2").read_bytes())
    assert load_tokenizer(tmp_path).require_chat().name == "v2"


def template_of(*single: Any) -> dict[str, Any]:
    names = {"<s>": 1, "</s>": 2, "[INST]": 3}
    return {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}} if s is None else special(s) for s in single],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in names.items()},
    }


def special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize(
    "post_processor",
    [
        None,
        BYTE_LEVEL,
        template_of("<s>", None),
        template_of(None),
        template_of("<s>", None, "</s>"),
        template_of("[INST]", None),
        {"type": "Sequence", "processors": [BYTE_LEVEL, template_of("<s>", None)]},
    ],
    ids=["none", "bytes", "bos", "bare", "both", "other", "sequence"],
)
def test_what_goes_around_a_text_is_what_transformers_puts_there(
    post_processor: Any, said: bool | None, tmp_path: Path
) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": said, "add_eos_token": said}
    write(tmp_path, "v7-small", {CONFIG: config}, post_processor=post_processor)
    tokenizer, judge = load_tokenizer(tmp_path), in_transformers(tmp_path)
    for text in ("hello", ""):
        assert tokenizer.encode_prompt(text) == judge(text)["input_ids"]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, False), (True, True), (False, True)])
def test_what_goes_around_a_text_is_kept_when_the_tokenizer_is_written_again(
    bos: bool, eos: bool, whole: bool, tmp_path: Path
) -> None:
    name = "v7-small" if whole else "v1"
    around = template_of(*(["<s>"] if bos else []), None, *(["</s>"] if eos else []))
    config = {"add_bos_token": bos, "add_eos_token": eos}
    tokenizer = load_tokenizer(write(tmp_path, name, {CONFIG: config}, whole=whole, post_processor=around))
    expected = [*([1] if bos else []), *tokenizer.encode("hello"), *([2] if eos else [])]
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again")
    metadata = tokenizer.gguf_metadata()
    assert (metadata["tokenizer.ggml.add_bos_token"], metadata["tokenizer.ggml.add_eos_token"]) == (bos, eos)
    again: list[Tokenizer] = [tokenizer, load_tokenizer(tmp_path / "again"), gguf_tokenizer(metadata)]
    assert [each.encode_prompt("hello") for each in again] == [expected] * 3
