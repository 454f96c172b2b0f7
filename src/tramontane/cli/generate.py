"""`tramontane generate`: continue a text as the model would, without a chat template."""

from __future__ import annotations

from typing import Annotated

import typer

from tramontane.cli.options import Json, ModelOptions, SamplingOptions
from tramontane.cli.terminal import print_json, read_text, write_answer


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from stdin.")] = "-",
    *,
    model: ModelOptions,
    sampling: SamplingOptions,
    each_line: Annotated[
        bool, typer.Option("--each-line", help="Take every line of the text as a prompt of its own, all at once.")
    ] = False,
    n: Annotated[int, typer.Option("-n", help="Answers per prompt.")] = 1,
    as_json: Json = False,
) -> None:
    """Continue a text.

    With --json, one object per answer and line, in the order of the prompts.
    """
    params = sampling.params(n=n)
    text = read_text(prompt)
    prompts = [line for line in text.splitlines() if line] if each_line else [text]
    llm = model.load()
    if not as_json and n == 1 and len(prompts) == 1:
        for delta in llm.stream(prompts[0], params):
            write_answer(delta)
        write_answer("\n")
        return
    for completion in llm.generate(prompts, params):
        if as_json:
            print_json(
                {
                    "prompt_tokens": len(completion.prompt_token_ids),
                    "text": completion.text,
                    "token_ids": completion.token_ids,
                    "finish_reason": completion.finish_reason,
                }
            )
        else:
            write_answer(f"{completion.text}\n")
