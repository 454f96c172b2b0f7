"""Writes docs/default_model.md: the newest evaluation of the default model, and ten conversations with it as they came.

    python docs/default_model.py [--model default]

The tables are the last rows of default_model.jsonl, blimp.jsonl, same_perplexity.jsonl and long_positions.jsonl in
benchmarks/results. The
conversations are those of docs/sample_conversations.toml, each drawn with its number as the seed and the sampling the
model advises; one machine writes them the same every time, another kind of processor may not.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tramontane import LLM, SamplingParams

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
LONGEST = 200  # tokens of an answer
Row = dict[str, Any]


PAGE = """\
<!-- Written by `python docs/default_model.py`; do not edit. -->
# The default model

The model that comes along has {num_parameters:,} weights in {config.n_layers} layers of dimension {config.dim}, a \
vocabulary of {config.vocab_size:,} tokens, {config.n_heads} query heads that share {config.n_kv_heads} heads of keys \
and values, and reads up to {config.max_seq_len:,} tokens. Its [card](../src/tramontane/default_model/README.md) says \
what it was trained on and what that cost, [recipes](../recipes/README.md) how to make it again.

## Evaluation

Bits per byte (lower is better) of held-out conversations (the assistant's turns), of the head of TinyStories' \
validation file, and of WikiText-2 test, restored from its token form as [evaluation.md](evaluation.md) says. BLiMP: \
the share of minimal pairs told apart (higher is better; chance is 0.5), over all and by phenomenon. The 5-grams have \
modified Kneser-Ney smoothing over the same vocabulary: 5-gram-read was trained on the batches the model read, \
5-gram-all on every training text of the data build, of which the model has read a part. In brackets: how far below \
5-gram-read, where below is better. Where items were drawn, a share of few items says little.

{evaluation}

`python -m benchmarks.default_model default --built BUILT --data DATA --out OUT --read RECIPE …` measures it again.

BLiMP in full, {blimp_items:,} pairs, with 95 % intervals:

{blimp}

`python -m benchmarks.blimp default --data DATA --out OUT --formats f32` measures it again.

## The same weights elsewhere

Perplexity of the beginning of TinyStories' validation file through our engine, through transformers (`tramontane \
convert default DIR --layout hf`) and through llama.cpp (`--layout gguf`). llama.cpp does not apply the sliding \
window, so its windows are no longer than that. The difference is that of nats a token to our engine in float32, \
relative.

{perplexity}

`python -m benchmarks.same_perplexity default TEXT` measures it again.

## Far into a text

It was trained on texts of up to 2,048 tokens. Since no layer sees further back than {window} tokens, positions are \
told apart by distances that were all met in training, and the configuration says {config.max_seq_len:,}. Bits of the \
same tokens at their place in one long text, the head of TinyStories' validation file, and read anew from position 0 \
with the 1,000 tokens before them:

{positions}

`python -m benchmarks.long_positions default TEXT` measures it again. What a token depends on reaches back \
{config.reach:,} tokens through all layers, and by what it says far less: long conversations are taken, and not \
remembered.

## Ten conversations, unedited

First answers to the prompts of [sample_conversations.toml](sample_conversations.toml), with the sampling the model \
advises ({sampling}) and the number of the conversation as the seed.

{conversations}
"""


def newest(subject: str, model: str) -> list[Row]:
    """The rows of the newest measurement of `model`: all of the last one's date and commit."""
    path = RESULTS / f"{subject}.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row["model"] == model]
    return [row for row in rows if all(row[key] == rows[-1][key] for key in ("commit", "date"))]


def evaluation(model: str) -> Iterator[str]:
    """Tasks and phenomena as rows, 5-grams and formats as columns, compared with the first."""
    rows = newest("default_model", model)
    columns = list(dict.fromkeys(row["column"] for row in rows))
    values = {(row["task"], row["metric"], row["column"]): row["value"] for row in rows}
    yield f"| | items | {' | '.join(columns)} |"
    yield "|---|--:" + "|--:" * len(columns) + "|"
    for task, metric, items in dict.fromkeys((row["task"], row["metric"], row["items"]) for row in rows):
        base, *others = (values[task, metric, column] for column in columns)
        is_text = metric == "bits_per_byte"
        cells = [f"{base:.3f}", *(f"{v:.3f}" + (f" ({1 - v / base:+.0%})" if is_text else "") for v in others)]
        yield f"| {task}, {metric.replace('_', ' ')} | {items:,} | {' | '.join(cells)} |"


def blimp(rows: list[Row]) -> Iterator[str]:
    yield "| phenomenon | pairs | " + " | ".join(dict.fromkeys(row["column"] for row in rows)) + " |"
    yield "|---|--:" + "|--:" * len({row["column"] for row in rows}) + "|"
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        cells = [f"{row['value']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})" for row in of_task]
        name = task.removeprefix("blimp, ").replace("blimp", "all").replace("_", " ")
        yield f"| {name} | {of_task[0]['items']:,} | {' | '.join(cells)} |"


def perplexity(model: str) -> Iterator[str]:
    yield "| window | format | engine | perplexity | difference | bound |"
    yield "|--:|---|---|--:|--:|--:|"
    for row in newest("same_perplexity", model):
        cells = f"{row['perplexity']:.4f} | {row['difference']:.0e} | {row['bound']:.0e}"
        yield f"| {row['window']} | {row['format']} | {row['engine']} | {cells} |"


def positions(model: str) -> Iterator[str]:
    yield "| positions | tokens | bits at the place | bits alone | difference |"
    yield "|---|--:|--:|--:|--:|"
    for row in newest("long_positions", model):
        cells = f"{row['bits_at_place']:.4f} | {row['bits_alone']:.4f} | {row['difference']:+.0e}"
        yield f"| {row['positions']} | {row['tokens']:,} | {cells} |"


def conversations(llm: LLM) -> Iterator[str]:
    asked = tomllib.loads((DOCS / "sample_conversations.toml").read_text("utf-8"))["conversation"]
    for number, conversation in enumerate(asked, start=1):
        yield f"### {number}. {conversation['title']}\n"
        messages: list[dict[str, str]] = []
        if system := conversation.get("system"):
            messages.append({"role": "system", "content": system})
            yield f"System prompt: {system}\n"
        for words in conversation["says"]:
            messages.append({"role": "user", "content": words})
            params = SamplingParams(**{**llm.checkpoint.sampling, "max_tokens": LONGEST, "seed": number})
            completion = llm.chat(messages, params)
            messages.append({"role": "assistant", "content": completion.text})
            yield f"**You:** {words}\n"
            yield "\n".join(f"> {line}".rstrip() for line in completion.text.strip().split("\n")) + "\n"
            if completion.finish_reason != "stop":
                yield f"(cut at {LONGEST} tokens)\n"


def page(model: str) -> str:
    llm = LLM(model)
    config = llm.checkpoint.config
    blimp_rows = newest("blimp", model)
    return PAGE.format(
        config=config,
        num_parameters=config.num_parameters(),
        evaluation="\n".join(evaluation(model)),
        blimp_items=blimp_rows[0]["items"],
        blimp="\n".join(blimp(blimp_rows)),
        perplexity="\n".join(perplexity(model)),
        window=config.windows[0],
        positions="\n".join(positions(model)),
        sampling=", ".join(f"{name} {value}" for name, value in llm.checkpoint.sampling.items()),
        conversations="\n".join(conversations(llm)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    (DOCS / "default_model.md").write_text(page(parser.parse_args().model).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    main()
