"""Texts that tokenizers have got wrong somewhere, and random ones made of the same stuff."""

from __future__ import annotations

import random

LOOK_ALIKES = (
    "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[PREFIX]",
    "[SUFFIX]", "[MIDDLE]", "[IMG]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "<0x0A>", "<0xFF>", "<SPECIAL_42>",
    "<<SYS>>", "<</SYS>>", "<|im_start|>", "[control_12]", "{{ bos_token }}",
)  # fmt: skip
_WORDS = (
    "Hello", "world", "don't", "I'LL", "naïve", "Zürich", "Ελλάδα", "Привет", "МИР", "日本語", "한국어", "ไทย", "हिन्दी",
    "مرحبا", "שלום", "e\u0301", "ǅungla", "ﬁne", "½", "x²", "١٢٣", "12345", "3.14", "0x1F", "iPhone", "HTTPServer",
    "snake_case", "a/b//c", "http://a.b/c?d=e&f", "#!/bin/sh", "->", "=>", "!==", "<!--", "***", "...", "—", "€", "©",
    "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "😀", "\U0001f9ff", "𝔘𝔫𝔦", "\u200b", "\u200f", "\ufeff", "\u00ad", "\u2028",
)  # fmt: skip
_SPACES = (" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", " \n", "\u00a0", "\u3000", "\x0b", "\x0c", "\x85")
_CONTROLS = ("\x00", "\x01", "\x1b[31m", "\x7f", "\ufffd", "\ufffe", "\U0010ffff")

TEXTS = (
    "", " ", "  ", "\n", "a", "The quick brown fox jumps over the lazy dog.", "  leading and trailing  ",
    "def f(x):\n\tif x:\r\n\t\treturn {'a': [1, 2]}  # ok\n\n\nclass A:\n    pass\n",
    '{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}',
    "e\u0301 is not \u00e9; \u1100\u1161\u11a8 is not \uac01", "مرحبا بالعالم — שלום עולם, mixed with English 123",
    "👩‍👩‍👧‍👦 family, 👍🏽 thumb, 🏳️‍🌈 flag, 🇫🇷🇩🇪", "tab\tnul\x00bell\x07escape\x1b", "a" * 300, " " * 300, "\n" * 70,
    "-" * 130, "ab" * 100, "=" * 80 + "\n" + "=" * 80, "中" * 90, "\u0301" * 20, "A" * 65 + "b", " \t" * 40,
    "\r\n" * 30,
    "1234567890" * 9, *LOOK_ALIKES, *_WORDS, *_SPACES, *_CONTROLS,
)  # fmt: skip


def random_texts(num_texts: int, seed: int) -> list[str]:
    """Words, spaces, control characters and look-alikes in random order; no `▁`, which sentencepiece reads as space."""
    rng = random.Random(seed)
    texts = []
    for _ in range(num_texts):
        parts = []
        for _ in range(rng.randrange(1, 25)):
            source = rng.choices((_WORDS, _SPACES, LOOK_ALIKES, _CONTROLS), weights=(10, 10, 2, 1))[0]
            parts.append(rng.choice(source) * (rng.choice((1, 1, 1, 2, 5, 17))))
        texts.append("".join(parts))
    return texts


EVERYTHING = (*TEXTS, *random_texts(220, seed=1))
