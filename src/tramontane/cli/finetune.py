"""`tramontane finetune`: teach a model your own conversations, preferences or labels."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tramontane import durable
from tramontane.cli.options import Base, Json, given_options, refuse_options
from tramontane.cli.pretrain import Changes, MaxSeconds, Resume, run_training
from tramontane.cli.terminal import amount, print_json, printable
from tramontane.errors import ConfigError

if TYPE_CHECKING:
    from tramontane.data.sample_files import UnsoundFileError
    from tramontane.training.estimate import Estimate
    from tramontane.training.recipe import Recipe


def finetune(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A folder or a pulled hub id to start from; a LoRA adapter is gone on with.")
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            help="Files of samples, FILE or FILE:WEIGHT (how often each sample is seen), or hf://datasets/…"
        ),
    ],
    *,
    run: Annotated[Path, typer.Option(help="Folder of the run, made if need be.")],
    valid: Annotated[
        str | None, typer.Option(help="Held out to measure with: a file of samples, or a share of DATA such as 5%.")
    ] = None,
    task: Annotated[
        Literal["chat", "preference", "classify"], typer.Option(help="What a line holds: messages, a pair, labels.")
    ] = "chat",
    method: Annotated[
        Literal["lora", "full"], typer.Option(help="Train a small adapter beside the model, or all its weights.")
    ] = "lora",
    loss: Annotated[
        Literal["dpo", "ipo", "simpo", "orpo"] | None, typer.Option(help="Loss on preferences (default: dpo).")
    ] = None,
    epochs: Annotated[float, typer.Option(help="How often each sample is seen.")] = 3.0,
    steps: Annotated[int | None, typer.Option(help="Instead of --epochs: this many updates.")] = None,
    repeats: Annotated[
        Path | None,
        typer.Option(help="JSON list of [lines, times]: how often the lines of DATA, one file, are seen in turn."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (default: by method and task).")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapter (default: 16, or that of the one gone on with).")
    ] = None,
    base: Base = None,
    weight_format: Annotated[
        str | None,
        typer.Option(help="Hold the frozen base of an adapter as auto (as stored), q8_0, q4_0, q4_k or another."),
    ] = None,
    max_len: Annotated[
        int | None, typer.Option(help="Longest sample in tokens (default: 2048, or the model's context).")
    ] = None,
    too_long: Annotated[
        Literal["error", "drop", "truncate", "split"], typer.Option(help="What becomes of longer samples.")
    ] = "error",
    skip_invalid: Annotated[
        float, typer.Option(help="Share of the lines, 0 to 1, that may be invalid and are then skipped.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = 0,
    device: Annotated[str, typer.Option(help="Run on auto, cpu, cuda or cuda:N.")] = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Check the samples and say what training takes; --resume then begins it.")
    ] = False,
    resume: Resume = False,
    max_seconds: MaxSeconds = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Teach a model your own samples.

    JSON Lines, JSON, CSV or parquet, in any common shape: messages, ShareGPT, Alpaca, prompt and completion, plain
    text, preferences, labels. Every line is checked before anything starts. RUN/model is then an adapter in PEFT's
    format, or with --method full a whole checkpoint. Where MODEL is an adapter, training goes on from its weights, with
    --method full from the model it makes of its base. RUN/recipe.toml holds everything that was chosen.
    """
    from tramontane.cli.finetune_arguments import file_arguments, require_same_arguments, save_arguments
    from tramontane.data.sample_files import UnsoundFileError
    from tramontane.loading.named_model import find_model
    from tramontane.training.finetune import (
        FinetuneOptions,
        finetune_recipe,
        max_len_of,
        with_steps_of_epochs,
    )
    from tramontane.training.recipe import read_recipe, write_recipe
    from tramontane.training.resuming import in_folder, require_same_recipe

    saved = run / "recipe.toml"
    given = given_options(context)
    if {"--epochs", "--steps"} <= given:
        raise ConfigError("give --epochs or --steps, not both")
    if repeats is not None and len(data) != 1:
        raise ConfigError(f"--repeats {repeats} is for one file of DATA, not for {len(data)}")
    if check:
        refuse_options(given, {"--max-seconds"}, "with --check, which trains nothing")
    named = find_model(model, base)
    arguments: dict[str, Any] = {
        "MODEL": str((named.adapter or named.path).resolve()),
        "DATA": file_arguments(data),
        "--base": None if base is None else str(named.path.resolve()),
        "--valid": None if valid is None else file_arguments([valid]),
        "--repeats": None if repeats is None else file_arguments([str(repeats)]),
        **{"--task": task, "--method": method, "--loss": loss, "--epochs": epochs, "--steps": steps, "--lr": lr},
        **{"--rank": rank, "--weight-format": weight_format, "--max-len": max_len, "--too-long": too_long},
        **{"--skip-invalid": skip_invalid, "--seed": seed},
    }
    if resume and saved.exists():
        require_same_arguments(run, {name: arguments[name] for name in arguments if name in given | {"MODEL", "DATA"}})
    else:
        if (run / "checkpoints").exists() and any((run / "checkpoints").iterdir()):
            raise ConfigError(f"{run} already holds checkpoints; --resume goes on, another --run begins anew")
        options = FinetuneOptions(
            model=named.path,
            adapter=named.adapter,
            data=tuple(data) if repeats is None else Path(data[0]),
            run=run,
            repeats=repeats,
            valid=valid,
            task=task,
            method=method,
            loss=loss,
            epochs=epochs,
            steps=steps,
            lr=lr,
            rank=rank,
            max_len=max_len,
            too_long=too_long,
            max_invalid_share=skip_invalid,
            seed=seed,
            device=device,
            weight_format=weight_format,
        )
        try:
            recipe = finetune_recipe(options)
        except UnsoundFileError as error:
            if check and as_json:
                print_json(problems_of(error))
            raise
        durable.make_folder(run)
        durable.write(saved, write_recipe(recipe))
        resolved = {
            "--lr": recipe.optimizer.lr,
            "--rank": None if recipe.lora is None else recipe.lora.rank,
            "--loss": recipe.task.loss if task == "preference" else None,
            "--max-len": max_len_of(options),
        }
        save_arguments(run, arguments | resolved)
        if not check and not as_json:
            for note in notes_of(recipe):
                print(printable(note))
    recipe = in_folder(read_recipe(saved, changes or ()), run)
    if "--device" in given:
        recipe = replace(recipe, machine=replace(recipe.machine, device=device))
    if not any(change.startswith("schedule.num_steps=") for change in changes or ()):
        recipe = with_steps_of_epochs(recipe)
    if check:
        require_same_recipe(recipe)
        say_estimate(recipe, as_json=as_json)
        durable.write(saved, write_recipe(recipe))
        return
    again = shlex.join(["tramontane", "finetune", model, *data, "--run", str(run), "--resume"])
    run_training(recipe, again, resume=resume, max_seconds=max_seconds, as_json=as_json)


def problems_of(error: UnsoundFileError) -> dict[str, Any]:
    """What is wrong with a file, for programs."""
    return {
        "file": str(error.path),
        "num_valid": error.check.num_valid,
        "num_invalid": error.check.num_invalid,
        "problems": [{"line": problem.line, "message": problem.message} for problem in error.check.problems],
    }


def notes_of(recipe: Recipe) -> list[str]:
    """How the samples of a run were read, where that is not as they stand."""
    from tramontane.data.sample_shards import read_notes

    return [note for folder in (*recipe.data.train, *recipe.data.valid) for note in read_notes(Path(folder))]


def say_estimate(recipe: Recipe, *, as_json: bool) -> None:
    from tramontane.data.sample_shards import read_skipped
    from tramontane.training.estimate import estimate

    expected = estimate(recipe)
    skipped = [
        {"split": Path(folder).name, "line": problem.line, "message": problem.message}
        for folder in (*recipe.data.train, *recipe.data.valid)
        for problem in read_skipped(Path(folder))
    ]
    notes = notes_of(recipe)
    if as_json:
        print_json(
            {"run": recipe.run, **asdict(expected), "summary": summary(expected), "skipped": skipped, "notes": notes}
        )
        return
    for note in notes:
        print(printable(note))
    for problem in skipped:
        print(printable(f"{problem['split']}: line {problem['line']} is skipped: {problem['message']}"))
    print(printable(f"{recipe.run}: {summary(expected)}. --resume begins."))


def summary(expected: Estimate) -> str:
    """What training takes, in a line."""
    seen, num_steps, minutes = f"{expected.epochs:.3g}", expected.num_steps, expected.expected_seconds / 60
    return (
        f"{amount(expected.data_tokens)} tokens of samples, each sample seen {seen} "
        f"{'time' if seen == '1' else 'times'} in {num_steps} {'update' if num_steps == 1 else 'updates'} of about "
        f"{amount(expected.train_tokens_per_step)} tokens ({expected.padding_share:.0%} padding beside); "
        f"about {minutes:.1f} minutes and {amount(expected.memory_bytes, 'B')} of memory on this machine"
    )
