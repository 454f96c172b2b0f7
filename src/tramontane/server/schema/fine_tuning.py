"""The bodies of the fine-tuning routes, Mistral's and OpenAI's, and what they answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from tramontane.server.schema.base import ApiModel
from tramontane.server.schema.batches import Details

FileId = Annotated[str, Field(max_length=64)]
MAX_FILES = 100
Suffix = Annotated[str, Field(max_length=18, pattern=r"^[A-Za-z0-9._-]*$")]
OpenaiSuffix = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")]
Title = Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$")]  # no database takes NUL


class TrainingFile(ApiModel):
    """`weight`: how often its samples are seen for every time that those of a file of weight 1 are."""

    file_id: FileId
    weight: float = Field(default=1.0, gt=0, le=100)


class Hyperparameters(ApiModel):
    """`training_steps` or `epochs` say how long; without either, 3 epochs. `fim_ratio` has no effect on conversations,
    which are all that is trained on."""

    training_steps: int | None = Field(default=None, ge=1, le=10**7)
    epochs: float | None = Field(default=None, gt=0, le=1000)
    learning_rate: float = Field(default=5e-4, ge=1e-8, le=1)
    weight_decay: float | None = Field(default=0.1, ge=0, le=1)
    warmup_fraction: float | None = Field(default=0.05, ge=0, le=1)
    seq_len: int | None = Field(default=None, ge=100, le=2**20)
    fim_ratio: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _has_one_length(self) -> Hyperparameters:
        if self.training_steps is not None and self.epochs is not None:
            raise ValueError("give training_steps or epochs, not both")
        return self


class ClassifierTarget(ApiModel):
    """What a classifier tells. Targets and labels are read off the samples; those named here must be all there are."""

    name: str = Field(min_length=1, max_length=128)
    labels: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(min_length=1, max_length=1000)
    weight: float = Field(default=1.0, ge=1, le=1)  # all targets weigh the same
    loss_function: Literal["single_class", "multi_class"] | None = None


class JobRequest(ApiModel):
    """POST /v1/fine_tuning/jobs of Mistral's API. `auto_start` left out is true."""

    model: str
    hyperparameters: Hyperparameters
    training_files: list[TrainingFile | FileId] = Field(min_length=1, max_length=MAX_FILES)
    validation_files: Annotated[list[FileId], Field(max_length=MAX_FILES)] | None = None
    suffix: Suffix | None = None
    auto_start: bool | None = None
    invalid_sample_skip_percentage: float = Field(default=0.0, ge=0, le=0.5)
    job_type: Literal["completion", "classifier"] | None = None
    classifier_targets: Annotated[list[ClassifierTarget], Field(max_length=100)] | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None  # a run writes its own metrics
    repositories: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def weights(self) -> dict[str, float]:
        """By file; one that is named twice counts twice."""
        weights: dict[str, float] = {}
        for file in self.training_files:
            file_id, weight = (file, 1.0) if isinstance(file, str) else (file.file_id, file.weight)
            weights[file_id] = weights.get(file_id, 0.0) + weight
        return weights


class OpenaiHyperparameters(ApiModel):
    """A number for `batch_size` is refused: updates are packed by tokens, as many as the samples ask for."""

    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = "auto"
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, le=1000)] = "auto"
    batch_size: Literal["auto"] = "auto"
    beta: Literal["auto"] | Annotated[float, Field(gt=0, le=2)] = "auto"  # of DPO


class MethodOptions(ApiModel):
    hyperparameters: OpenaiHyperparameters = OpenaiHyperparameters()


class Method(ApiModel):
    type: Literal["supervised", "dpo"] = "supervised"
    supervised: MethodOptions | None = None
    dpo: MethodOptions | None = None

    @property
    def hyperparameters(self) -> OpenaiHyperparameters | None:
        chosen = self.dpo if self.type == "dpo" else self.supervised
        return None if chosen is None else chosen.hyperparameters


class OpenaiJobRequest(ApiModel):
    """POST /v1/fine_tuning/jobs of OpenAI's API: told by `training_file`."""

    model: str
    training_file: FileId
    validation_file: FileId | None = None
    suffix: OpenaiSuffix | None = None
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    method: Method | None = None
    hyperparameters: OpenaiHyperparameters | None = None
    metadata: Details | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None


class ModelUpdate(ApiModel):
    """PATCH /v1/fine_tuning/models/{model_id}: what is left out stays."""

    name: Title | None = None
    description: Title | None = None


class Integration(BaseModel):
    type: str


class JobMetadata(BaseModel):
    """What a job takes, as estimated from its samples and this machine; `cost` where its price is configured."""

    expected_duration_seconds: int | None = None
    cost: float | None = None
    cost_currency: str | None = None
    train_tokens_per_step: int | None = None
    train_tokens: int | None = None
    data_tokens: int | None = None
    estimated_start_time: int | None = None


class DryRun(JobMetadata):
    """What POST /v1/fine_tuning/jobs?dry_run=true answers."""

    object: Literal["job.metadata"] = "job.metadata"
    details: str
    deprecated: bool = True
    epochs: float | None = None
    training_steps: int | None = None


class TargetObject(BaseModel):
    name: str
    labels: list[str]
    weight: float = 1.0
    loss_function: Literal["single_class", "multi_class"]


class JobObject(BaseModel):
    """A job as Mistral's API lists it."""

    id: str
    object: Literal["job"] = "job"
    job_type: Literal["completion", "classifier"]
    auto_start: bool
    model: str
    status: str
    created_at: int
    modified_at: int
    training_files: list[str]
    validation_files: list[str]
    fine_tuned_model: str | None
    suffix: str | None
    integrations: list[Integration] = []
    trained_tokens: int | None
    metadata: JobMetadata | None
    hyperparameters: dict[str, Any]
    repositories: list[Integration] = []


class EventObject(BaseModel):
    name: str
    data: dict[str, Any] | None
    created_at: int


class CheckpointMetrics(BaseModel):
    train_loss: float | None
    valid_loss: float | None
    valid_mean_token_accuracy: float | None


class CheckpointObject(BaseModel):
    metrics: CheckpointMetrics
    step_number: int
    created_at: int


class DetailedJobObject(JobObject):
    """A job as Mistral's API describes it."""

    events: list[EventObject]
    checkpoints: list[CheckpointObject]
    classifier_targets: list[TargetObject] | None = None


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobObject]
    total: int


class DeletedJob(BaseModel):
    """Of neither API: both keep jobs for ever."""

    id: str
    object: Literal["job"] = "job"
    deleted: Literal[True] = True


class JobError(BaseModel):
    code: str
    message: str
    param: str | None = None


class OpenaiJobObject(BaseModel):
    """A job as OpenAI's API shows it."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: dict[str, Any]
    model: str
    organization_id: str
    result_files: list[str] = []
    seed: int
    status: str
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[Integration] | None = None
    metadata: dict[str, Any] | None
    method: dict[str, Any]


class OpenaiJobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenaiJobObject]
    has_more: bool


class OpenaiEvent(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class OpenaiEventList(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenaiEvent]
    has_more: bool


class OpenaiCheckpoint(BaseModel):
    """Only the last one of a job that ended well is a model that can be asked."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int


class OpenaiCheckpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenaiCheckpoint]
    has_more: bool
    first_id: str | None
    last_id: str | None


class FineTunedModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    workspace_id: str
    root: str
    root_version: str
    archived: bool
    name: str | None
    description: str | None
    capabilities: dict[str, bool]
    max_context_length: int
    aliases: list[str] = []
    job: str
    model_type: Literal["completion", "classifier"]
    classifier_targets: list[TargetObject] | None = None


class ArchivedModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    archived: bool
