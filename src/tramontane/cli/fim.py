"""`tramontane fim`: write the code that belongs between two parts of a file (fill in the middle)."""

from __future__ import annotations

from typing import Annotated

import typer

from tramontane.cli.options import Json, ModelOptions, SamplingOptions
from tramontane.cli.terminal import completion_json, print_json, read_text, require_sound, write_answer


def fim(
    prompt: Annotated[str, typer.Argument(help="What comes before; - reads it from stdin.")] = "-",
    suffix: Annotated[
        str | None, typer.Argument(help="What comes after (default: what follows the mark in the prompt).")
    ] = None,
    *,
    mark: Annotated[str, typer.Option(help="Where the prompt is to be filled in.")] = "<FILL>",
    model: ModelOptions,
    sampling: SamplingOptions,
    as_json: Json = False,
) -> None:
    """Fill in the middle of code, with models trained for it (Codestral, Code Llama).

    Example: tramontane fim -m codestral - < half_written.py, where the file says <FILL> at the gap.
    """
    sampling.params()  # an impossible value is refused before the model is loaded
    before = read_text(prompt)
    if suffix is None:
        before, found, suffix = before.partition(mark)
        if not found:
            raise typer.BadParameter(f"the prompt does not hold the mark {mark!r}, and no SUFFIX was given")
    llm = model.load()
    completion = llm.fill_in_middle(before, suffix, sampling.params(llm.checkpoint.sampling))
    if as_json:
        print_json(completion_json(completion, completion.choices[0]))
    else:
        write_answer(f"{completion.text}\n")
        require_sound(completion.finish_reason)
