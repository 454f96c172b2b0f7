"""Options shared by verbs: frozen dataclasses whose fields become flags, one direction only.

A verb takes them as ordinary parameters (`def generate(prompt: ..., model: ModelOptions)`); `as_command` spreads
each dataclass into its flags and hands the verb the filled object.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup
from typer.main import get_command

from tramontane.errors import RequestError

if TYPE_CHECKING:
    from tramontane.engine.sampling import SamplingParams
    from tramontane.llm import LLM

HELP_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
WEIGHT_FORMAT_HELP = (
    "Hold weights as auto (as stored), f32, bf16, f16, q8_0, q4_0, q4_k, q5_k and q6_k (of files stored so), or torch "
    "(plain tensors)."
)
KV_DTYPE_HELP = "Hold keys and values as auto, float32, bfloat16, float16 or q8_0."
Base = Annotated[
    str | None, typer.Option("--base", help="Of a LoRA adapter: the model it is for (default: the one it names).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is held in memory."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            envvar="TRAMONTANE_MODEL",
            help="A folder (a LoRA adapter's too), a .gguf file, a Hugging Face hub id, or 'default'.",
        ),
    ] = "default"
    base: Base = None
    weight_format: Annotated[str, typer.Option(help=WEIGHT_FORMAT_HELP)] = "auto"
    dtype: Annotated[str, typer.Option(help="Compute in auto, float32, bfloat16 or float16.")] = "auto"
    device: Annotated[str, typer.Option(help="Run on auto, cpu, cuda or cuda:N.")] = "auto"
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: TRAMONTANE_THREADS, else all).")] = None
    max_seq_len: Annotated[
        int | None, typer.Option(help="Longest sequence in tokens, prompt and answer (default: the model's).")
    ] = None
    kv_cache_gib: Annotated[float | None, typer.Option(help="Memory for keys and values, in GiB.")] = None
    draft_model: Annotated[
        str | None, typer.Option(help="A small model of the same vocabulary that guesses ahead; answers stay the same.")
    ] = None
    kv_dtype: Annotated[str, typer.Option(help=KV_DTYPE_HELP)] = "auto"

    def load(self) -> LLM:
        """The model, ready; progress goes to stderr. Raises ConfigError, CheckpointError or CapacityError."""
        from tramontane.cli.terminal import bytes_bar
        from tramontane.llm import LLM

        with bytes_bar(f"loading {self.model}") as progress:
            return LLM(
                self.model,
                base=self.base,
                weight_format=self.weight_format,
                dtype=self.dtype,
                device=self.device,
                threads=self.threads,
                max_seq_len=self.max_seq_len,
                kv_cache_gib=self.kv_cache_gib,
                kv_dtype=self.kv_dtype,
                draft_model=self.draft_model,
                progress=progress,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How tokens are drawn; every field is the SamplingParams field of the same name. What is not given is as the
    model's makers advise (generation_config.json), else as SamplingParams has it."""

    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens (default: to the end).")] = None
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", "-t", help="0 is greedy: always the likeliest (default: the model's own, else 0)."
        ),
    ] = None
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest tokens only.")] = None
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest tokens of total probability p.")] = None
    min_p: Annotated[float | None, typer.Option(help="Leave out tokens less likely than p times the likeliest.")] = None
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 makes what was said less likely.")] = None
    presence_penalty: Annotated[float, typer.Option(help="Subtracted once from tokens already in the answer.")] = 0.0
    frequency_penalty: Annotated[float, typer.Option(help="Subtracted per use of a token in the answer.")] = 0.0
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None
    stop: Annotated[list[str] | None, typer.Option(help="End the answer before this text (may be repeated).")] = None
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end of the answer.")] = False

    def params(self, advice: Mapping[str, Any] | None = None, **changes: Any) -> SamplingParams:
        """The SamplingParams: flags over `advice` (`Checkpoint.sampling`), `changes` over both.

        Raises RequestError for an impossible value."""
        from tramontane.engine.sampling import SamplingParams

        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given["stop"] = tuple(self.stop or ())
        flags = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**{**(advice or {}), **flags, **changes})


def as_command(verb: Callable[..., None]) -> Any:
    """The command of a verb: its own parameters, and one flag per field of each dataclass it takes."""
    own = inspect.signature(verb, eval_str=True).parameters
    groups: dict[str, Any] = {n: p.annotation for n, p in own.items() if dataclasses.is_dataclass(p.annotation)}
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if name not in groups]
    for group in groups.values():
        parameters += flags(group)

    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        verb(**values)

    call.__name__, call.__doc__ = verb.__name__, verb.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    single = typer.Typer(rich_markup_mode=None, add_completion=False, context_settings=HELP_SETTINGS)
    single.command(name=verb.__name__)(call)
    return get_command(single)


def as_group(name: str, about: str, verbs: Mapping[str, Callable[..., None]]) -> Any:
    """The command of a verb of two words, from the functions of the second."""

    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(verbs)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return as_command(verbs[cmd_name]) if cmd_name in verbs else None

    grouped = typer.Typer(
        name=name,
        cls=Group,
        rich_markup_mode=None,
        add_completion=False,
        context_settings=HELP_SETTINGS,
    )

    def describe() -> None:
        pass

    grouped.callback(help=f"{about[:1].upper()}{about[1:]}")(describe)
    return get_command(grouped)


def given_options(context: typer.Context) -> set[str]:
    """The options that stand on the command line, by their long names."""
    names: dict[str, str] = {parameter.name or "": max(parameter.opts, key=len) for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in names}
    given = {names[name] for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    return {name for name in given if name.startswith("--")}  # arguments have a bare one


def refuse_options(given: Collection[str], useless: Collection[str], place: str) -> None:
    """Raises RequestError that names each of `given` that is among `useless`, whose options mean nothing `place`."""
    names = sorted(set(given) & set(useless))
    if names:
        has, it = ("has", "it") if len(names) == 1 else ("have", "them")
        raise RequestError(f"{' and '.join(names)} {has} no effect {place}; leave {it} out")


def flags(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as keyword parameters."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]
