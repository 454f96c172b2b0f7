"""ServerSettings: everything a server can be told. Its fields are the flags of `tramontane serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tramontane.errors import ConfigError
from tramontane.runtime import home
from tramontane.server.dialect import Dialect


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Raises ConfigError for a value that could not work."""

    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Folders, .gguf files, hub ids or 'default'; NAME=MODEL serves one under a name of yours.",
        ),
    ] = None
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: serve a LoRA adapter of the first MODEL under a name (may be repeated)."),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(help="The model that MODELs which are LoRA adapters are for (default: what each names)."),
    ] = None
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000
    aliases: Annotated[
        Path | None, typer.Option(help='TOML file of other names for the models: alias = "model", one a line.')
    ] = None
    alias: Annotated[
        list[str] | None,
        typer.Option(
            help="ALIAS=MODEL: another name for a served model, the first where =MODEL is left out (may be repeated); "
            "'*': any name that is not served."
        ),
    ] = None
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            envvar="TRAMONTANE_STRICT",
            help="Refuse, as Mistral's API does, what is otherwise bent or left out and named in the answer's headers.",
        ),
    ] = False
    dialect: Annotated[
        Dialect,
        typer.Option(help="Shape of answers to requests that show neither API: openai or mistral."),
    ] = "openai"
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder of files and of the database (default: TRAMONTANE_HOME/server).")
    ] = None
    database_url: Annotated[
        str | None,
        typer.Option(envvar="TRAMONTANE_DATABASE_URL", help="SQLAlchemy URL (default: SQLite in the state folder)."),
    ] = None
    files_url: Annotated[
        str | None, typer.Option(help="fsspec URL of file contents, such as s3://bucket/files (default: state folder).")
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name this server goes by (may be repeated; default: this machine's, or any with keys)."),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may call this server, such as https://chat.example (may be repeated)."),
    ] = None
    public_url: Annotated[
        str | None, typer.Option(help="Address that links to files begin with (default: the one they are asked by).")
    ] = None
    max_upload_mib: Annotated[int, typer.Option(help="Largest file that may be uploaded, in MiB.")] = 512
    max_bodies_mib: Annotated[
        int | None,
        typer.Option(help="Bodies of requests held at once, in MiB; more are answered 429 (default: by the memory)."),
    ] = None
    max_bodies_per_owner_mib: Annotated[
        int | None, typer.Option(help="The same, of one owner's requests (default: a quarter of it).")
    ] = None
    batch_concurrency: Annotated[int, typer.Option(help="Requests of batches computed at once.")] = 8
    fine_tuning_jobs: Annotated[int, typer.Option(help="Fine-tuning jobs trained at once; 0: none are taken.")] = 1
    fine_tuning_nice: Annotated[
        int, typer.Option(help="How far training stands back behind requests, 0 (not at all) to 19 (where idle).")
    ] = 10
    fine_tuning_memory_gib: Annotated[
        float | None,
        typer.Option(
            help="Memory that one fine-tuning job may take, in GiB (default: its share of what the models leave)."
        ),
    ] = None
    weight_format: Annotated[
        str, typer.Option(help="Hold the weights in this format, such as q8_0 (auto: as stored).")
    ] = "auto"
    dtype: Annotated[str, typer.Option(help="Compute in auto, float32, bfloat16 or float16.")] = "auto"
    device: Annotated[str, typer.Option(help="Run on auto, cpu, cuda or cuda:N.")] = "auto"
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: TRAMONTANE_THREADS, else all).")] = None
    max_seq_len: Annotated[
        int | None, typer.Option(help="Longest sequence in tokens, prompt and answer (default: the model's).")
    ] = None
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(
            help="Memory for keys and values per model, in GiB (default: 1 on a CPU, or half of what is free)."
        ),
    ] = None
    kv_dtype: Annotated[str, typer.Option(help="Keep keys and values as auto, float32, bfloat16, float16, q8_0.")] = (
        "auto"
    )
    draft_model: Annotated[
        str | None, typer.Option(help="A small model of the same vocabulary that guesses ahead for a single MODEL.")
    ] = None
    max_sequences: Annotated[int, typer.Option(help="Answers computed at once, per model.")] = 64
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait; more are answered 429.")] = 1024
    max_waiting_per_owner: Annotated[
        int | None, typer.Option(help="Of one owner's keys (default: no more than are left for the others).")
    ] = None
    max_connections: Annotated[
        int | None,
        typer.Option(help="Connections at once (default: 2048, or half of the files the process may open)."),
    ] = None
    max_connections_per_address: Annotated[
        int, typer.Option(help="Connections of one address at once; this machine's and a --proxy's have no such limit.")
    ] = 512
    proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a reverse proxy on another machine (may be repeated).")
    ] = None
    head_s: Annotated[float, typer.Option(help="Seconds within which the head of a request must have come.")] = 20.0
    body_stall_s: Annotated[float, typer.Option(help="Seconds for which the body of a request may pause.")] = 20.0
    read_stall_s: Annotated[float, typer.Option(help="Seconds for which a reader may take nothing.")] = 120.0
    min_bytes_per_s: Annotated[
        float, typer.Option(help="Bytes per second that senders and readers must reach on the whole.")
    ] = 1024.0
    drain_s: Annotated[float, typer.Option(help="Seconds that running answers get to end after SIGTERM.")] = 30.0
    stall_s: Annotated[
        float | None,
        typer.Option(help="Seconds without a step until /health is red (default: by the model's size, at least 10)."),
    ] = None
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            envvar="TRAMONTANE_PRICE_PER_HOUR",
            help="What this machine costs per hour; token prices are worked out from it.",
        ),
    ] = None
    response_days: Annotated[
        int, typer.Option(help="Days that answers of /v1/responses are kept for their owner (0: not at all).")
    ] = 30
    max_files: Annotated[
        int, typer.Option(help="Quotas, of callers whose key has none of its own: files stored for an owner.")
    ] = 10_000
    max_stored_gib: Annotated[
        float, typer.Option(help="… GiB of files, kept responses, and requests of unfinished batches.")
    ] = 100.0
    max_batches: Annotated[int, typer.Option(help="… batches that have not ended.")] = 1000
    max_fine_tuning_jobs: Annotated[int, typer.Option(help="… fine-tuning jobs that have not ended.")] = 100
    max_models: Annotated[int, typer.Option(help="… fine-tuned models.")] = 1000
    max_concurrent_requests: Annotated[int, typer.Option(help="… requests of one key at once, to each server.")] = 512
    trash_days: Annotated[
        int, typer.Option(help="Days that files and jobs without a row in the database stay in the trash.")
    ] = 30
    usage_days: Annotated[int, typer.Option(help="Days that the usage of requests is kept.")] = 90
    request_log: Annotated[
        Path | None, typer.Option(help="Append a JSON line for every request to this file ('-': stderr).")
    ] = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port={self.port} must lie between 0 and 65535")
        for name in (
            *("max_upload_mib", "batch_concurrency", "trash_days", "usage_days"),
            *("max_connections", "max_connections_per_address"),
        ):
            if not 1 <= (1 if getattr(self, name) is None else getattr(self, name)) < 2**20:
                raise ConfigError(f"{name}={getattr(self, name)} must be a number from 1 up")
        for name in ("max_bodies_mib", "max_bodies_per_owner_mib"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**20:
                raise ConfigError(f"{name}={value} must be a number from 1 up")
        if not 0 <= self.response_days < 2**20:
            raise ConfigError(f"response_days={self.response_days} must be a number from 0 up")
        if not 0 <= self.fine_tuning_jobs < 1000:
            raise ConfigError(f"fine_tuning_jobs={self.fine_tuning_jobs} must be a number from 0 to 999")
        if not 0 <= self.fine_tuning_nice < 20:
            raise ConfigError(f"fine_tuning_nice={self.fine_tuning_nice} must be a number from 0 to 19")
        if self.fine_tuning_memory_gib is not None and not 0 < self.fine_tuning_memory_gib < 2**20:
            raise ConfigError(f"fine_tuning_memory_gib={self.fine_tuning_memory_gib} must be a size above 0")
        for name in ("head_s", "body_stall_s", "read_stall_s", "min_bytes_per_s"):
            if not 0.05 <= getattr(self, name) < 2**31:
                raise ConfigError(f"{name}={getattr(self, name)} must be a number from 0.05 up")
        for name in ("max_files", "max_stored_gib", "max_batches", "max_fine_tuning_jobs", "max_models"):
            if not 0 <= getattr(self, name) < 2**31:
                raise ConfigError(f"{name}={getattr(self, name)} must be a number from 0 up")
        if not 1 <= self.max_concurrent_requests < 2**31:
            raise ConfigError(f"max_concurrent_requests={self.max_concurrent_requests} must be a number from 1 up")
        for name in ("drain_s", "stall_s", "price_per_hour"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**31:
                raise ConfigError(f"{name}={value} must be a number from 0 up")

    @property
    def quotas(self) -> dict[str, int]:
        """By the names of the columns of keys."""
        names = ("max_concurrent_requests", "max_files", "max_batches", "max_fine_tuning_jobs", "max_models")
        counts = {name: getattr(self, name) for name in names}
        return {**counts, "max_stored_bytes": int(self.max_stored_gib * 2**30)}

    @property
    def state_folder(self) -> Path:
        return self.state_dir or home() / "server"

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.state_folder.absolute() / 'state.db'}"
