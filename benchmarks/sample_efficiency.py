"""Tokens that the default recipe needs for the held-out loss of a plain one: AdamW under a cosine, equal in size.

Every run is a small model of its own on the pretraining text of recipes/default_data.toml, in the proportions of
recipes/petit_pretrain_cpu.toml. The plain runs read all TOKENS at several learning rates, and the best of them sets the
mark; those of the default recipe (Muon with normalised rows, warm-up, stable, decay) read a share. Runs that differ in
one thing tell what it is that helps. What is compared is the mean of the sources' held-out bits per byte after the last
update. A run that is finished is not run again; one that was cut short goes on.

    python -m benchmarks.sample_efficiency BUILT FOLDER [--tokens 800000]
"""

from __future__ import annotations

import argparse
import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._results import record
from tramontane.data.strict_toml import read_table
from tramontane.training.metrics import read_rows
from tramontane.training.recipe import Recipe
from tramontane.training.run import train

PROPORTIONS = Path(__file__).parent.parent / "recipes" / "petit_pretrain_cpu.toml"
BATCH_LEN = 4096
MODEL = {
    "dim": 128,
    "n_layers": 6,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 32,
    "hidden_dim": 384,
    "sliding_window": 256,
}
COSINE = {"kind": "cosine", "final": 0.1}
WSD = {"kind": "wsd", "decay_fraction": 0.4}
MUON = {"kind": "muon", "normalise_rows": True, "lr": 6e-3, "muon_lr": 6e-3}
BASELINE_RATES = (7.5e-4, 1.5e-3, 3e-3, 6e-3)
SHARES = (0.3, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Variant:
    name: str
    share: float
    schedule: dict[str, Any]
    optimizer: dict[str, Any]


def adamw(rate: float) -> dict[str, Any]:
    return {"kind": "adamw", "lr": rate}


BASELINES = [Variant(f"adamw, cosine, lr {rate:g}", 1.0, COSINE, adamw(rate)) for rate in BASELINE_RATES]
DEFAULT = [Variant("default: muon, wsd", share, WSD, MUON) for share in SHARES]


def in_one_thing_different(best_rate: float) -> list[Variant]:
    return [
        Variant("muon, cosine", 0.7, COSINE, MUON),
        Variant(f"adamw, wsd, lr {best_rate:g}", 0.7, WSD, adamw(best_rate)),
    ]


def held_out(variant: Variant, built: Path, folder: Path, num_tokens: int) -> dict[str, Any]:
    """Train as the variant says, if that is not done yet; its row."""
    num_steps = round(variant.share * num_tokens / BATCH_LEN)
    name = "".join(c if c.isalnum() else "_" for c in f"{variant.name} {num_steps}")
    run = folder / name
    with PROPORTIONS.open("rb") as file:
        epochs = tomllib.load(file)["data"]["phases"][0]["epochs"]
    recipe = read_table(
        {
            "run": str(run),
            "seed": 5,
            "data": {
                "train": [str(built / "pretrain" / "train")],
                "valid": [str(built / "pretrain" / "valid")],
                "batch_len": BATCH_LEN,
                "microbatch_len": BATCH_LEN,
                "phases": [
                    {"name": "all", "epochs": {k: v for k, v in epochs.items() if not k.startswith("chat_")}},
                ],
            },
            "model": MODEL,
            "schedule": {"num_steps": num_steps, "warmup_steps": num_steps // 10, **variant.schedule},
            "optimizer": variant.optimizer,
            "checkpoint": {"every_seconds": 60.0, "keep": 1},
            "metrics": {"every_steps": 10, "valid_every_steps": num_steps, "valid_batches": 6},
        },
        Recipe,
        variant.name,
    )
    if not (run / "model").exists():
        train(recipe, resume=True)
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "held_out" and row["step"] == num_steps]
    return {
        "variant": variant.name,
        "share_of_tokens": variant.share,
        "tokens": num_steps * BATCH_LEN,
        "bits_per_byte": statistics.fmean(row["bits_per_byte"] for row in rows),
        "by_source": {row["source"]: row["bits_per_byte"] for row in rows},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("built", type=Path, help="what recipes/default_data.toml was built into")
    parser.add_argument("folder", type=Path, help="keeps the runs")
    parser.add_argument("--tokens", type=int, default=800_000)
    options = parser.parse_args()

    def run(variants: list[Variant]) -> list[dict[str, Any]]:
        return [held_out(each, options.built, options.folder, options.tokens) for each in variants]

    baselines = run(BASELINES)
    best = min(baselines, key=lambda row: row["bits_per_byte"])
    mark = best["bits_per_byte"]
    default = run(DEFAULT)
    reached = [row["share_of_tokens"] for row in default if row["bits_per_byte"] <= mark]
    others = run(in_one_thing_different(BASELINE_RATES[baselines.index(best)]))
    rows = [row | {"against_best_baseline": row["bits_per_byte"] / mark} for row in baselines + default + others]
    record("sample_efficiency", [*rows, {"share_needed": min(reached, default=None)}])


if __name__ == "__main__":
    main()
