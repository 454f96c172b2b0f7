"""`tramontane bench`: prefill and decode of a model, each beside the machine's own limit, measured in turns."""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tramontane.cli.options import Json, ModelOptions
from tramontane.cli.terminal import print_json
from tramontane.errors import RequestError

if TYPE_CHECKING:
    from tramontane.llm import LLM


def bench(
    *,
    prompt_tokens: Annotated[int, typer.Option(help="Length of each prompt.")] = 512,
    answer_tokens: Annotated[int, typer.Option(help="Tokens decoded after each prompt.")] = 32,
    streams: Annotated[int, typer.Option(help="Sequences decoded together.")] = 1,
    repeats: Annotated[int, typer.Option(help="Rounds; medians are printed.")] = 5,
    model: ModelOptions,
    as_json: Json = False,
) -> None:
    """Measure prefill and decode.

    Every round measures the memory's read bandwidth, the multiply-add rate, prefill and decode one after the other,
    so that drift of a shared machine meets them alike. Decoding is measured without guesses (several tokens verified
    at once), then with them; what they add depends on the text, here that of random prompts. The last line is JSON.
    """
    for name, value in (("prompt-tokens", prompt_tokens), ("streams", streams), ("repeats", repeats)):
        if value < 1:
            raise RequestError(f"--{name} {value} must be at least 1")
    if answer_tokens < 2:
        raise RequestError(f"--answer-tokens {answer_tokens} must be at least 2")
    llm = model.load()
    timed_generation(llm, prompt_tokens, 2, streams)  # the first pages, threads and caches
    rounds = []
    for number in range(repeats):
        rounds.append(measure_round(llm, prompt_tokens, answer_tokens, streams))
        if not as_json:
            print(f"round {number + 1} of {repeats}: {shown(rounds[-1])}", file=sys.stderr)
    result = {
        "model": model.model,
        "dtype": str(llm.engine.model.dtype).removeprefix("torch."),
        "weight_format": model.weight_format,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "streams": streams,
        "repeats": repeats,
        **{name: statistics.median(values[name] for values in rounds) for name in rounds[0]},
        "spread": {name: [min(v[name] for v in rounds), max(v[name] for v in rounds)] for name in rounds[0]},
    }
    if not as_json:
        print(shown(result))
    print_json(result)


def measure_round(llm: LLM, prompt_tokens: int, answer_tokens: int, streams: int) -> dict[str, float]:
    """One measurement of everything. Prompts are random ids, new each time, so that no prefix is cached."""
    from tramontane.cli.machine import cache_bytes, multiply_add_rate, read_bandwidth

    network = llm.engine.model
    config = network.config
    read_bytes_per_s = read_bandwidth(network.device)
    flop_per_s = multiply_add_rate(network.device, network.dtype)
    with llm.engine.plain_decoding():
        prefill_s = timed_generation(llm, prompt_tokens, 1, 1)
        together_s = timed_generation(llm, prompt_tokens, 1, streams)
        whole_s = timed_generation(llm, prompt_tokens, answer_tokens, streams)
    guessing_s = timed_generation(llm, prompt_tokens, answer_tokens, streams)
    step_s = max(whole_s - together_s, 1e-9) / (answer_tokens - 1)
    guessed_step_s = max(guessing_s - together_s, 1e-9) / (answer_tokens - 1)
    # a token reads one row of the embeddings, unless they are the output as well
    num_weights = config.num_parameters(active=True) - (0 if config.tied_embeddings else config.vocab_size * config.dim)
    bytes_per_step = network.weights_bytes * num_weights / config.num_parameters()
    prefill_flop_per_s, decode_bytes_per_s = 2 * num_weights * prompt_tokens / prefill_s, bytes_per_step / step_s
    is_in_cache = bytes_per_step < cache_bytes(network.device)
    # what was reached can be reached: the measurement was disturbed
    flop_per_s = max(flop_per_s, prefill_flop_per_s)
    if not is_in_cache:
        read_bytes_per_s = max(read_bytes_per_s, decode_bytes_per_s)
    return {
        "prefill_tokens_per_s": prompt_tokens / prefill_s,
        "prefill_share": prefill_flop_per_s / flop_per_s,
        "decode_tokens_per_s": streams / step_s,
        "decode_share": decode_bytes_per_s / read_bytes_per_s,
        "decode_in_cache": float(is_in_cache),
        "decode_with_guesses_tokens_per_s": streams / guessed_step_s,
        "read_gb_per_s": read_bytes_per_s / 1e9,
        "gflop_per_s": flop_per_s / 1e9,
    }


def timed_generation(llm: LLM, prompt_tokens: int, answer_tokens: int, streams: int) -> float:
    """Seconds to answer `streams` random prompts with exactly `answer_tokens` tokens each."""
    from tramontane.engine.sampling import SamplingParams

    vocab_size = llm.engine.model.config.vocab_size
    prompts = [random.choices(range(vocab_size), k=prompt_tokens) for _ in range(streams)]
    started = time.perf_counter()
    llm.generate(prompts, SamplingParams(max_tokens=answer_tokens, ignore_eos=True))
    return time.perf_counter() - started


def shown(result: dict[str, Any]) -> str:
    share = f"{result['decode_share']:.0%} of {result['read_gb_per_s']:.1f} GB/s"
    if result["decode_in_cache"]:  # where the memory's rate is no limit
        share = "its weights fit the processor's cache"
    return (
        f"prefill {result['prefill_tokens_per_s']:.1f} tokens/s "
        f"({result['prefill_share']:.0%} of {result['gflop_per_s']:.0f} GFLOP/s), "
        f"decode {result['decode_tokens_per_s']:.1f} tokens/s "
        f"({share}), {result['decode_with_guesses_tokens_per_s']:.1f} with guesses"
    )
