"""`tramontane eval`: measure a model, or compare two measurements."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tramontane.cli.options import WEIGHT_FORMAT_HELP, Base, Json, ModelOptions, given_options, refuse_options
from tramontane.cli.terminal import bar, print_json, printable
from tramontane.errors import RequestError

if TYPE_CHECKING:
    from tramontane.evals.item import Task
    from tramontane.evals.target import Target

Names = Annotated[str, typer.Option("--tasks", help="Tasks or suites, separated by commas; 'list' shows them all.")]
Texts = Annotated[
    list[Path] | None,
    typer.Option("--text", help="Also bits per byte of this text or JSON-lines file (may be repeated)."),
]
Questions = Annotated[
    list[Path] | None,
    typer.Option(
        "--questions", help="Also questions of your own: a file of records with question, answer and maybe choices."
    ),
]
Data = Annotated[Path | None, typer.Option(help="Folder of the data sets (default: the Hugging Face hub).")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; one that holds some is continued.")]
Limit = Annotated[int | None, typer.Option(help="At most this many items per task, drawn by the seed.")]
Seed = Annotated[int, typer.Option(help="Of the items drawn and of sampled answers.")]
Window = Annotated[int | None, typer.Option(help="Tokens a text is read in at once (default: 2048, if they fit).")]
Stride = Annotated[int | None, typer.Option(help="Tokens the window advances by (default: half of it).")]
Unisolated = Annotated[
    bool,
    typer.Option("--unisolated-code", help="Run code the model wrote even where it keeps access to the network."),
]
OF_THE_ENGINE = ("--base", "--device", "--dtype", "--stride", "--threads", "--weight-format", "--window")
ServedModel = Annotated[str | None, typer.Option(help="Name of the model at a server (default: its first).")]


def eval(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A folder (a LoRA adapter's too), a .gguf file, a hub id, 'default', a server's http "
            "address; or 'compare'."
        ),
    ] = "default",
    folders: Annotated[list[Path] | None, typer.Argument(help="With compare: the folders of two evaluations.")] = None,
    *,
    tasks: Names = "",
    text: Texts = None,
    questions: Questions = None,
    data: Data = None,
    out: Out = None,
    limit: Limit = None,
    seed: Seed = 0,
    window: Window = None,
    stride: Stride = None,
    served_model: ServedModel = None,
    unisolated_code: Unisolated = False,
    base: Base = None,
    weight_format: Annotated[str, typer.Option(help=WEIGHT_FORMAT_HELP)] = "auto",
    dtype: Annotated[str, typer.Option(help="Compute in auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="Run on auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: TRAMONTANE_THREADS, else all).")] = None,
    as_json: Json = False,
) -> None:
    """Measure a model.

    Settings are those of the Mistral 7B paper and are printed. OUT receives a log of every item, results.json and a
    report in Markdown and HTML; an evaluation that was interrupted goes on where it was. `eval compare A B` sets two
    such folders side by side, with the significance of each difference.
    """
    given = given_options(context)
    if model == "compare":
        refuse_options(given, given - {"--json"}, "on compare, which sets two evaluations side by side")
        run_compare(folders or [], as_json=as_json)
        return
    if folders:
        raise RequestError(f"unexpected argument {str(folders[0])!r}; only compare takes folders")
    if tasks == "list":
        refuse_options(given, given - {"--tasks"}, "on the list of tasks")
        list_tasks()
        return
    from tramontane.evals.report import write_report
    from tramontane.evals.runner import RunOptions, evaluate
    from tramontane.evals.sources import Sources

    if limit is not None and limit < 1:
        raise RequestError(f"limit={limit} must be at least 1")
    wanted = chosen_tasks(tasks, text or [], questions or [], unisolated_code=unisolated_code)
    if not any(task.kind == "text" for task in wanted):
        refuse_options(given, {"--window", "--stride"}, "where no text is measured")
    if not tasks:
        refuse_options(given, {"--data"}, "on files of your own; name --tasks")
    folder = out or Path("evals") / (re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model")
    target: Target
    if re.match(r"https?://", model):
        from tramontane.evals.server_target import ServerTarget

        refuse_options(given, OF_THE_ENGINE, "on a server, which has its own")
        target = ServerTarget(model, served_model, api_key=os.environ.get("TRAMONTANE_API_KEY"), seed=seed)
    else:
        from tramontane.evals.target import EngineTarget

        refuse_options(given, {"--served-model"}, "on a model of this machine")
        options = ModelOptions(
            model=model, base=base, weight_format=weight_format, dtype=dtype, device=device, threads=threads
        )
        target = EngineTarget(options.load(), model, window=window, stride=stride, seed=seed)
    with closing(target), items_bar() as progress:
        results = evaluate(target, wanted, Sources(data), folder, RunOptions(limit=limit, seed=seed), progress=progress)
    write_report(folder, results)
    if as_json:
        print_json(results)
    else:
        show(results, folder)


@contextmanager
def items_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of several tasks: call what it yields with (task, items done, items in all)."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with bar(MofNCompleteColumn(), TimeRemainingColumn()) as display:
        shown: dict[str, Any] = {}

        def report(task: str, done: int, total: int) -> None:
            if task not in shown:
                shown[task] = display.add_task(printable(task), total=total)
            display.update(shown[task], completed=done)

        yield report


def chosen_tasks(names: str, texts: list[Path], questions: list[Path], *, unisolated_code: bool) -> list[Task]:
    """The tasks asked for. Raises RequestError for none, DataError for an unknown one, CapacityError where code
    could not be run safely."""
    from tramontane.evals.question_file import question_task
    from tramontane.evals.sandbox import require_isolation
    from tramontane.evals.tasks import tasks_named
    from tramontane.evals.texts import file_task

    named = tasks_named([name.strip() for name in names.split(",") if name.strip()])
    wanted = [*named, *map(file_task, texts), *map(question_task, questions)]
    if not wanted:
        raise RequestError("nothing to measure; name --tasks (--tasks list shows them), a --text or --questions")
    twice = [task.name for task in wanted if sum(task.name == other.name for other in wanted) > 1]
    if twice:
        raise RequestError(f"{twice[0]} is named twice; give each file a name of its own")
    if not unisolated_code and any(task.runs_code for task in wanted):
        require_isolation()
    return wanted


def list_tasks() -> None:
    from tramontane.evals.tasks import SUITES, TASKS

    for name, task in TASKS.items():
        print(f"{name:18} {task.headline:14} {task.settings}")
    for name, members in SUITES.items():
        print(f"{name:18} {'suite':14} {', '.join(members)}")


def show(results: dict[str, Any], folder: Path) -> None:
    """Settings and metrics of every task, and where the rest is."""
    from tramontane.evals.report import chance_of, interval_text

    for name, summary in results["results"].items():
        print(printable(f"{name}: {summary['settings']}"))
        for metric, e in summary["metrics"].items():
            chance = chance_of(summary, metric)
            guessed = "" if chance is None else f"; by chance {chance:.4f}"
            print(f"  {metric:22} {e['value']:10.4f}   (95 %: {interval_text(e)}, {e['num_items']} items{guessed})")
    print(printable(f"{folder}: results.json, report.md, report.html and a log of every item"))


def run_compare(folders: list[Path], *, as_json: bool) -> None:
    from tramontane.evals.compare import compare, comparison_json, comparison_markdown

    if len(folders) != 2:
        raise RequestError(f"compare takes the folders of two evaluations, not {len(folders)}")
    rows = compare(folders[0], folders[1])
    if as_json:
        print_json(comparison_json(rows))
    else:
        print(printable(comparison_markdown(folders[0], folders[1], rows)), end="")
