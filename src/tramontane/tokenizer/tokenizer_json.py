"""`tokenizer.json` of the Hugging Face tokenizers library, with `tokenizer_config.json` beside it.

Both are read as data: `auto_map` is refused, the chat template is never rendered, and the parts of the file are
checked against the short list of those that Llama, Mistral and our own exports use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import CONTROL_NAMES
from tramontane.tokenizer.byte_pair import SPACE_NORMALIZER, BytePairTokenizer, BytePairVocabulary
from tramontane.tokenizer.json_file import get, read_json
from tramontane.tokenizer.sentencepiece import SPACE
from tramontane.tokenizer.tekken import TEKKEN_PATTERN

MAX_TEMPLATE_CHARS = 2**20
_TOP_KEYS = frozenset(
    ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
) | {"model"}
_ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def load_tokenizer_json(path: Path) -> BytePairTokenizer:
    """The tokenizer of a `tokenizer.json`. Raises TokenizerError naming the file and the part not understood."""
    try:
        config = read_config(path.with_name("tokenizer_config.json"))
        vocabulary = read_vocabulary(read_json(path))
        names = {name: token_id for token_id, name in vocabulary.control.items()}
        bos, eos = (_token_name(config, role, default) for role, default in (("bos", "<s>"), ("eos", "</s>")))
        for name in (bos, eos):
            if name not in names:
                raise TokenizerError(f"{name!r} is not a special token of the vocabulary")
        companions = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
        files = [file for name in companions if (file := path.with_name(name)).is_file()]
        return BytePairTokenizer(vocabulary, bos_id=names[bos], eos_id=names[eos], files=files)
    except TokenizerError as error:
        message = str(error)
        raise TokenizerError(message if str(path.parent) in message else f"{path}: {message}") from None


def read_config(path: Path) -> dict[str, Any]:
    """Contents of tokenizer_config.json, empty when there is none. Raises TokenizerError for `auto_map`."""
    if not path.is_file():
        return {}
    config = read_json(path)
    if "auto_map" in config:
        raise TokenizerError(f"{path}: auto_map asks to run code of the checkpoint, which is never done; remove it")
    return config


def chat_template(folder: Path) -> str | None:
    """Text of the checkpoint's chat template, only ever searched for known features, never rendered."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        if jinja.stat().st_size > MAX_TEMPLATE_CHARS:
            raise TokenizerError(f"{jinja} is larger than {MAX_TEMPLATE_CHARS} bytes")
        return jinja.read_bytes().decode("utf-8", errors="replace")
    template = read_config(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is None or isinstance(template, str):
        return template
    raise TokenizerError(f"{folder / 'tokenizer_config.json'}: chat_template must be text")


def read_vocabulary(data: dict[str, Any]) -> BytePairVocabulary:
    """Checked contents of a tokenizer.json. Raises TokenizerError for a part that cannot be honoured."""
    unknown = sorted(set(data) - _TOP_KEYS)
    if unknown:
        raise TokenizerError(f"{unknown[0]} is not a known part of a tokenizer.json")
    model = get(data, "model", dict, "tokenizer.json")
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"model.type={model['type']!r} is not supported; only BPE is")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise TokenizerError(f"model.{key}={model[key]!r} is not supported")
    tokens = get(model, "vocab", dict, "model")
    for token, token_id in tokens.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise TokenizerError(f"model.vocab[{token!r}]={token_id!r} must be a token id")
    pre_tokenizer = _check_pre_tokenizer(data.get("pre_tokenizer"))
    byte_level = pre_tokenizer is not None and "ByteLevel" in str(pre_tokenizer)
    if not byte_level and not model.get("byte_fallback"):
        raise TokenizerError("model.byte_fallback is off and nothing is byte-level: not every text could be spelled")
    control, literal = _added_tokens(data.get("added_tokens", []), tokens)
    special = {*control.values(), *(entry["content"] for entry in literal.values())}
    merges = [pair for pair in _merges(get(model, "merges", list, "model")) if "".join(pair) not in special]
    return BytePairVocabulary(
        tokens={token: token_id for token, token_id in tokens.items() if token not in special},
        merges=merges,
        control=control,
        literal=literal,
        byte_level=byte_level,
        ignore_merges=bool(model.get("ignore_merges", False)),
        normalizer=_check_normalizer(data.get("normalizer")),
        pre_tokenizer=pre_tokenizer,
    )


def _merges(entries: list[Any]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for place, entry in enumerate(entries):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise TokenizerError(f"model.merges[{place}] must be two tokens")
        merges.append((pair[0], pair[1]))
    return merges


def _added_tokens(entries: Any, tokens: Mapping[str, int]) -> tuple[dict[int, str], dict[int, dict[str, Any]]]:
    """(control names by id, literal tokens by id). Names known as control tokens are control, however declared."""
    control: dict[int, str] = {token_id: name for name, token_id in tokens.items() if name in CONTROL_NAMES}
    literal: dict[int, dict[str, Any]] = {}
    if not isinstance(entries, list):
        raise TokenizerError("added_tokens must be a list")
    for place, entry in enumerate(entries):
        source = f"added_tokens[{place}]"
        if not isinstance(entry, dict):
            raise TokenizerError(f"{source} must be an object")
        content = get(entry, "content", str, source)
        token_id = get(entry, "id", int, source)
        flags = {flag: get(entry, flag, bool, source) for flag in _ADDED_FLAGS if flag in entry}
        if not content or tokens.get(content, token_id) != token_id:
            raise TokenizerError(f"{source} {content!r} has id {token_id}, but the vocabulary says otherwise")
        if flags.get("special") or content in CONTROL_NAMES:
            control[token_id] = content
        else:
            literal[token_id] = {"content": content, **dict.fromkeys(_ADDED_FLAGS, False), **flags}
    if len(set(control.values())) != len(control):
        raise TokenizerError("added_tokens gives one special token two ids")
    return control, literal


def _check_normalizer(part: Any) -> dict[str, Any] | None:
    """Only the spelling of spaces as `▁` is known."""
    if part is None:
        return None
    for step in _steps(part, "normalizers"):
        if step not in SPACE_NORMALIZER["normalizers"]:
            raise TokenizerError(f"normalizer {_short(step)} is not supported")
    return dict(part)


def _check_pre_tokenizer(part: Any) -> dict[str, Any] | None:
    if part is None:
        return None
    for step in _steps(part, "pretokenizers"):
        match _type(step):
            case "Metaspace":
                known = step.get("replacement") == SPACE
            case "ByteLevel":
                known = step.get("add_prefix_space") is False
            case "Split":
                known = step.get("pattern") == {"Regex": TEKKEN_PATTERN} and step.get("behavior") == "Isolated"
                known = known and step.get("invert") is False
            case _:
                known = False
        if not known:
            raise TokenizerError(f"pre_tokenizer {_short(step)} is not supported")
    return dict(part)


def _steps(part: Any, key: str) -> list[Any]:
    return get(part, key, list, "a Sequence") if _type(part) == "Sequence" else [part]


def _type(part: Any) -> str | None:
    if not isinstance(part, dict):
        raise TokenizerError(f"{_short(part)} must be an object with a type")
    return part.get("type")


def _token_name(config: Mapping[str, Any], role: str, default: str) -> str:
    value = config.get(f"{role}_token") or default
    name = value.get("content") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise TokenizerError(f"tokenizer_config.json: {role}_token must name a token")
    return name


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
