"""Runs docs/fine_tune_guide.md from the samples to the answers, and writes what came out between the page's marks.

python docs/fine_tune_guide.py
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "fine_tune_guide.md"
QUESTIONS = (  # none is in the training file
    "What is your name?",
    "Where are you?",
    "At what time do you open?",
    "What do you have in your shop?",
    "What is the price of a kettle?",
    "Can you bring the tea to my home?",
    "What tea is good before bed?",
    "Can you do my homework?",
)


def tramontane(folder: Path, line: str, stdin: str | None = None, *, fails: bool = False) -> str:
    """What a command line prints, on either stream. Raises RuntimeError where it ends otherwise than it should."""
    done = subprocess.run(
        [sys.executable, "-m", "tramontane.cli", *line.split()],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        check=False,
    )
    if (done.returncode != 0) != fails:
        raise RuntimeError(f"tramontane {line} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout.strip()


def command(name: str) -> str:
    """The fine-tuning line of the page that ends in this flag."""
    [line] = re.findall(rf"^tramontane (finetune .* {name})$", PAGE.read_text("utf-8"), flags=re.M)
    return str(line)


def answers(folder: Path) -> str:
    rows = ["| asked | before | after |", "|---|---|---|"]
    for question in QUESTIONS:
        said = [
            tramontane(folder, f"chat --temperature 0 --max-tokens 100 --model {model}", question)
            for model in ("default", "shop/run/model")
        ]
        rows.append(
            f"| {question} | " + " | ".join(text.replace("\n", "<br>").replace("|", "\\|") for text in said) + " |"
        )
    return "\n".join(rows)


def guide(folder: Path) -> dict[str, str]:
    """What belongs between the marks, by name."""
    subprocess.run([sys.executable, DOCS / "examples" / "shop_helper.py", folder / "shop"], check=True)
    samples = folder / "shop" / "shop.jsonl"
    sound = samples.read_text("utf-8")
    samples.write_text(sound.replace('"role": "assistant"', '"role": "bot"', 1), "utf-8")
    parts = {"mistake": tramontane(folder, command("--check"), fails=True)}
    samples.write_text(sound, "utf-8")
    parts["check"] = tramontane(folder, command("--check"))
    started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = tramontane(folder, command("--resume")).splitlines()
    seconds, now = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    shown = [line for line in lines if "held-out" in line]
    parts["train"] = "\n".join([lines[0], "…", *shown, lines[-1]])
    parts = {name: f"```\n{text}\n```" for name, text in parts.items()}
    parts["train"] += f"\n\nThat took {seconds:.0f} seconds, and {processor:.0f} seconds of processor time."
    parts["answers"] = answers(folder)
    return parts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = guide(Path(folder))
    text = PAGE.read_text("utf-8")
    for name, part in parts.items():
        marks = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        text = re.sub(marks, lambda m, part=part: f"{m[1]}{part}\n{m[2]}", text, flags=re.S)  # type: ignore[misc]
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
