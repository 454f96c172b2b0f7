"""`tramontane generate`: continue a text as the model would, without a chat template."""

from __future__ import annotations

from typing import Annotated

import typer

from tramontane.cli.options import Json, ModelOptions, SamplingOptions
from tramontane.cli.terminal import completion_json, print_json, read_text, require_sound, write_answer, write_stream


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from stdin.")] = "-",
    *,
    model: ModelOptions,
    sampling: SamplingOptions,
    each_line: Annotated[
        bool,
        typer.Option(
            "--each-line",
            help="Take every line of the text, an empty one too, as a prompt of its own, all at once. Lines end at a "
            "line feed alone.",
        ),
    ] = False,
    n: Annotated[int, typer.Option("-n", help="Answers per prompt.")] = 1,
    as_json: Json = False,
) -> None:
    """Continue a text.

    With --json, one object per answer and line, in the order of the prompts.
    """
    sampling.params(n=n)  # an impossible value is refused before the model is loaded
    text = read_text(prompt)
    prompts = lines_of(text) if each_line else [text]
    llm = model.load()
    params = sampling.params(llm.checkpoint.sampling, n=n)
    if not as_json and n == 1 and len(prompts) == 1:
        write_stream(llm.stream_deltas(prompts[0], params))
        return
    for completion in llm.generate(prompts, params):
        for choice in completion.choices:
            if as_json:
                print_json(completion_json(completion, choice))
            else:
                write_answer(f"{choice.text}\n")
                require_sound(choice.finish_reason)


def lines_of(text: str) -> list[str]:
    """The lines as `wc -l` counts them (a last one without its end included), so that answers stay in step: other
    separators of Unicode are part of a line, a carriage return before the line feed is not."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
