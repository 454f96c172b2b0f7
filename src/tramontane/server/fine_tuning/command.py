"""The command lines of a job: `tramontane finetune --check`, then the same with `--resume`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tramontane.runtime import environment_of_child
from tramontane.server.fine_tuning.jobs import MODEL
from tramontane.server.fine_tuning.samples import num_passes, repeats_path
from tramontane.server.settings import ServerSettings
from tramontane.server.store.tables import FineTuningJob

DEFAULT_EPOCHS = 3.0
CHECKPOINT_S = 60.0
NUM_CHECKPOINTS = 4
"""In the course of a job; more where it lasts longer than CHECKPOINT_S for each."""
KEPT = (
    *("USER", "LOGNAME", "LANGUAGE", "TZ", "TMPDIR", "TERM", "XDG_CACHE_HOME", "LD_PRELOAD", "VIRTUAL_ENV"),
    *("TRAMONTANE_HOME", "TRAMONTANE_THREADS", "TRAMONTANE_CPU", "TRAMONTANE_DEBUG"),
)
KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_", "TRITON_", "OMP_", "MKL_", "KMP_", "GOMP_")
"""What a job sees of the environment besides: where caches lie, and how to compute."""


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Where everything of one job lies."""

    path: Path

    @property
    def start(self) -> Path:
        """The adapter that the job goes on from, if it does."""
        return self.path / "start"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def held_out(self) -> Path:
        return self.path / "held_out.jsonl"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def check_process(self) -> Path:
        return self.path / "check"

    @property
    def train_process(self) -> Path:
        return self.path / "train"


def check_command(job: FineTuningJob, folder: JobFolder, settings: ServerSettings) -> list[str]:
    """Checks the samples and estimates the run."""
    return [*_command(job, folder, settings, warmup_steps=0), "--check"]


def train_command(job: FineTuningJob, folder: JobFolder, settings: ServerSettings) -> list[str]:
    """Begins the run that was checked, or goes on with it."""
    num_steps = 0 if job.estimate is None else job.estimate["num_steps"]
    every_steps = max(1, num_steps // NUM_CHECKPOINTS)
    warmup_steps = round((job.hyperparameters.get("warmup_fraction") or 0.0) * num_steps)
    changes = ["--set", f"checkpoint.every_steps={every_steps}"]
    return [*_command(job, folder, settings, warmup_steps=warmup_steps), *changes, "--resume"]


def _command(job: FineTuningJob, folder: JobFolder, settings: ServerSettings, *, warmup_steps: int) -> list[str]:
    asked = job.hyperparameters
    steps = asked.get("training_steps")
    epochs = (asked.get("epochs") or DEFAULT_EPOCHS) / num_passes(folder.samples)
    length = ["--epochs", repr(epochs)] if steps is None else ["--steps", str(steps)]
    command = [
        *(sys.executable, "-m", "tramontane.cli", "finetune", _start(job, folder), str(folder.samples)),
        *("--run", str(folder.run), "--task", job.method, "--json"),
        *(*length, *(["--max-len", str(asked["seq_len"])] if asked.get("seq_len") else [])),
        *("--skip-invalid", repr(job.max_invalid_share), "--seed", str(job.seed), "--device", settings.device),
        *("--set", f"checkpoint.every_seconds={CHECKPOINT_S}", "--set", f"schedule.warmup_steps={warmup_steps}"),
    ]
    if repeats_path(folder.samples).exists():  # there is none of a job that an older version made, which copied
        command += ["--repeats", str(repeats_path(folder.samples))]
    if job.validation_files:
        command += ["--valid", str(folder.held_out)]
    if settings.weight_format != "auto":
        command += ["--weight-format", settings.weight_format]
    if asked.get("learning_rate") is not None:
        command += ["--lr", repr(asked["learning_rate"])]
    for name, key in (
        ("weight_decay", "optimizer.weight_decay"),
        ("beta", "task.beta"),
    ):
        if asked.get(name) is not None:
            command += ["--set", f"{key}={asked[name]}"]
    return command


def _start(job: FineTuningJob, folder: JobFolder) -> str:
    """What the job goes on from; its own adapter wherever the state folder has been moved."""
    return str(folder.start.resolve()) if folder.start.is_dir() else job.base_path


def environment(settings: ServerSettings) -> Mapping[str, str]:
    """What a job needs of the server's, with its threads."""
    threads = {} if settings.threads is None else {"TRAMONTANE_THREADS": str(settings.threads)}
    return environment_of_child(KEPT, KEPT_PREFIXES) | threads
