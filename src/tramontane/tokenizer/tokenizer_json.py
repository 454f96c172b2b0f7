"""`tokenizer.json` of the Hugging Face tokenizers library, with the small files beside it.

All are read as data: the chat template is never rendered, and the parts of the file are checked against the short list
of those that Llama, Mistral and our own exports use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tramontane.errors import TokenizerError
from tramontane.tokenizer.base import CONTROL_NAMES
from tramontane.tokenizer.byte_pair import SPACE_NORMALIZER, BytePairTokenizer, BytePairVocabulary
from tramontane.tokenizer.json_file import get, read_json
from tramontane.tokenizer.sentencepiece import SPACE
from tramontane.tokenizer.special_tokens import AddedToken, SpecialTokens, read_config
from tramontane.tokenizer.tekken import TEKKEN_PATTERN

MAX_TEMPLATE_CHARS = 2**20
_TOP_KEYS = frozenset(
    ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
) | {"model"}
_ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class UnsupportedPartError(TokenizerError):
    """A part of the file is sound but of a kind that is not supported here."""


def load_tokenizer_json(path: Path, special_tokens: SpecialTokens | None = None) -> BytePairTokenizer:
    """The tokenizer of a `tokenizer.json`, with the tokens that the files beside it add. Raises TokenizerError naming
    the file and the part not understood."""
    try:
        data = read_json(path)
        special_tokens = special_tokens or SpecialTokens()
        vocabulary = read_vocabulary(data, special_tokens.added, path.name)
        tokenizer = byte_pair_tokenizer(vocabulary, special_tokens, files=_companions(path))
        tokenizer.prefix_ids, tokenizer.suffix_ids = _post_processor(data.get("post_processor"), tokenizer.vocab_size)
        return tokenizer
    except TokenizerError as error:
        message = str(error)
        raise type(error)(message if str(path.parent) in message else f"{path}: {message}") from None


def byte_pair_tokenizer(
    vocabulary: BytePairVocabulary, special_tokens: SpecialTokens, *, files: Sequence[Path] = ()
) -> BytePairTokenizer:
    """The tokenizer of a vocabulary that already holds the added tokens. Raises TokenizerError where beginning or end
    of sequence is none of its special tokens."""
    names = {name: token_id for token_id, name in vocabulary.control.items()}
    bos, eos = special_tokens.bos or "<s>", special_tokens.eos or "</s>"
    for name in (bos, eos):
        if name not in names:
            raise TokenizerError(f"{name!r} is not a special token of the vocabulary")
    return BytePairTokenizer(vocabulary, bos_id=names[bos], eos_id=names[eos], files=files)


def _companions(path: Path) -> list[Path]:
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
    return [file for name in (*names, "added_tokens.json") if (file := path.with_name(name)).is_file()]


def chat_template(folder: Path) -> str | None:
    """Text of the checkpoint's chat template, only ever searched for known features, never rendered."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        if jinja.stat().st_size > MAX_TEMPLATE_CHARS:
            raise TokenizerError(f"{jinja} is larger than {MAX_TEMPLATE_CHARS} bytes")
        return jinja.read_bytes().decode("utf-8", errors="replace")
    template = read_config(folder).get("chat_template")
    if template is None and (folder / "chat_template.json").is_file():
        template = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default", "")
    if template is None or isinstance(template, str):
        return template
    raise TokenizerError(f"{folder / 'tokenizer_config.json'}: chat_template must be text")


def read_vocabulary(
    data: dict[str, Any], added: Sequence[AddedToken] = (), name: str = "tokenizer.json"
) -> BytePairVocabulary:
    """Checked contents of a tokenizer.json (called `name` in messages), with the tokens that other files add.

    Raises TokenizerError for a part that cannot be honoured, or an added token that contradicts the file.
    """
    unknown = sorted(set(data) - _TOP_KEYS)
    if unknown:
        raise TokenizerError(f"{unknown[0]} is not a known part of a tokenizer.json")
    model = get(data, "model", dict, "tokenizer.json")
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedPartError(f"model.type={model['type']!r} is not supported; only BPE is")
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
    _extend(control, literal, tokens, added, name)
    special = {*control.values(), *(entry["content"] for entry in literal.values())}
    merges = [
        pair
        for pair in _merges(get(model, "merges", list, "model"))
        if special.isdisjoint((*pair, "".join(pair)))  # which a text is never split into
    ]
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


def _extend(
    control: dict[int, str],
    literal: dict[int, dict[str, Any]],
    tokens: Mapping[str, int],
    added: Sequence[AddedToken],
    name: str,
) -> None:
    """Put `added` beside the vocabulary as transformers does: known ones take their new flags, new ones the next id."""
    ids = {**tokens, **{entry["content"]: token_id for token_id, entry in literal.items()}}
    ids |= {content: token_id for token_id, content in control.items()}
    spelled = {token_id: content for content, token_id in ids.items()}
    next_id = max(len(tokens), 1 + max((*control, *literal), default=-1))
    for token in added:
        token_id = ids.get(token.content, next_id if token.token_id is None else token.token_id)
        if token.token_id not in (None, token_id):
            raise TokenizerError(
                f"{token.source} gives {token.content!r} id {token.token_id}, but {name} has it as {token_id}; "
                "keep the file that belongs to the model"
            )
        if token.content not in ids and token_id in spelled:
            raise TokenizerError(
                f"{token.source} gives id {token_id} to {token.content!r}, but {name} has {spelled[token_id]!r} there; "
                "keep the file that belongs to the model"
            )
        if token.content not in ids and token_id != next_id:
            raise TokenizerError(
                f"{token.source} gives {token.content!r} id {token_id}, but after {name} the next free one is "
                f"{next_id}; name the tokens between, or keep the file that belongs to the model"
            )
        ids[token.content], spelled[token_id] = token_id, token.content
        next_id = max(next_id, token_id + 1)
        if token.special or token.content in CONTROL_NAMES:
            literal.pop(token_id, None)
            control[token_id] = token.content
        else:
            control.pop(token_id, None)
            literal[token_id] = token.entry


def _post_processor(part: Any, vocab_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that it puts before and after every text."""
    kind = None if part is None else _type(part)
    if kind in (None, "ByteLevel"):  # the latter moves offsets only
        return (), ()
    if kind == "Sequence":
        parts = [_post_processor(step, vocab_size) for step in get(part, "processors", list, "post_processor")]
        # each works on what the one before it made
        return sum((p[0] for p in reversed(parts)), ()), sum((p[1] for p in parts), ())
    if kind != "TemplateProcessing":
        raise UnsupportedPartError(f"post_processor {_short(part)} is not supported")
    specials = get(part, "special_tokens", dict, "post_processor")
    around: list[list[int]] = [[]]
    for step in get(part, "single", list, "post_processor"):
        if isinstance(step, dict) and "Sequence" in step:
            around.append([])
            continue
        special = step.get("SpecialToken") if isinstance(step, dict) else None
        entry = specials.get(special.get("id")) if isinstance(special, dict) else None
        token_ids = entry.get("ids") if isinstance(entry, dict) else None
        if not isinstance(token_ids, list) or not all(type(i) is int and 0 <= i < vocab_size for i in token_ids):
            raise TokenizerError(f"post_processor.single {_short(step)} must be a sequence or a known special token")
        around[-1] += token_ids
    if len(around) != 2:
        raise TokenizerError("post_processor.single must hold the text once")
    return tuple(around[0]), tuple(around[1])


def _check_normalizer(part: Any) -> dict[str, Any] | None:
    """Only the spelling of spaces as `▁` is known."""
    if part is None:
        return None
    for step in _steps(part, "normalizers"):
        if step not in SPACE_NORMALIZER["normalizers"]:
            raise UnsupportedPartError(f"normalizer {_short(step)} is not supported")
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
            raise UnsupportedPartError(f"pre_tokenizer {_short(step)} is not supported")
    return dict(part)


def _steps(part: Any, key: str) -> list[Any]:
    return get(part, key, list, "a Sequence") if _type(part) == "Sequence" else [part]


def _type(part: Any) -> str | None:
    if not isinstance(part, dict):
        raise TokenizerError(f"{_short(part)} must be an object with a type")
    return part.get("type")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
