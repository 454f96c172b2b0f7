"""Instructions put to a model, several at once; a chat model gets them as messages, a base model as plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tramontane.documents.steps import Ask, Reader, Steps
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import CheckpointError, RequestError

BATCH = 8
Progress = Callable[[int, int], None]
"""Called with (instructions answered, instructions of this pass)."""


def encode_instruction(llm: Reader, instruction: str) -> list[int]:
    """Token ids that ask for an answer to `instruction`. Text of a document can never become a control token."""
    if llm.tokenizer.chat is not None:
        return llm.tokenizer.chat.encode_chat([{"role": "user", "content": instruction}])
    return llm.tokenizer.encode_prompt(f"{instruction}\n\nAnswer:")


def room(llm: Reader, instruction: str, max_tokens: int) -> int:
    """Tokens left for a document's text beside the instruction and an answer of `max_tokens`, of those the model sees.

    Raises RequestError where too few are left to be of use.
    """
    margin = 16  # text encodes to a few tokens more or less inside a prompt than alone
    left = llm.reach - max_tokens - len(encode_instruction(llm, instruction)) - margin
    if left < 64:
        raise RequestError(
            f"the model sees {llm.reach} tokens at once, which leaves {max(left, 0)} for the document; "
            "raise --max-seq-len, ask for a shorter answer or take a model that sees more"
        )
    return left


def follow(
    llm: Reader,
    texts: Sequence[str],
    instruction: Callable[[str], str],
    max_tokens: int,
    progress: Progress | None = None,
) -> Steps[list[str]]:
    """The answers to the `instruction` about each text, greedily drawn, in their order; without the thoughts of models
    that think first.

    Raises CheckpointError where the model's scores are not finite.
    """
    answers: list[str] = []
    chat = llm.tokenizer.chat
    for first in range(0, len(texts), BATCH):
        prompts = [encode_instruction(llm, instruction(text)) for text in texts[first : first + BATCH]]
        for completion in (yield Ask(prompts, SamplingParams(max_tokens=max_tokens))):
            if completion.finish_reason in ("error", "refused"):
                raise CheckpointError(f"the model broke off: {completion.choices[0].error}")
            text = completion.text if chat is None else chat.parse(completion.token_ids).content
            answers.append(text.strip())
        if progress is not None:
            progress(len(answers), len(texts))
    return answers
