"""ModelRegistry: the models that are served, by name and alias; they may come and go while the server runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tramontane.engine.request import Meter
from tramontane.engine.sampling import SamplingParams
from tramontane.llm import AsyncLLM
from tramontane.llm.async_llm import Stream
from tramontane.llm.prompt import Prompt
from tramontane.loading.classifier_files import Classifier, open_classifier
from tramontane.loading.named_model import NamedModel
from tramontane.server.errors import ApiError
from tramontane.server.structured.compiler import GrammarCompiler
from tramontane.tokenizer.chat import MistralChat

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_TEMPERATURE = 0.7
"""For models whose makers advise none."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can be asked for; the fields are those of a model card."""

    completion_chat: bool = False
    function_calling: bool = False
    completion_fim: bool = False
    reasoning: bool = False
    fine_tuning: bool = False
    classification: bool = False
    moderation: bool = False
    vision: bool = False
    ocr: bool = False
    audio: bool = False
    audio_transcription: bool = False


@dataclass(slots=True, eq=False)
class ServedModel:
    """A name that requests may give. Several may share one AsyncLLM: a base and its adapters."""

    name: str
    llm: AsyncLLM
    grammars: GrammarCompiler
    capabilities: Capabilities
    default_sampling: SamplingParams  # what its makers advise, where a request says nothing
    aliases: list[str] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))
    description: str | None = None
    root: str | None = None  # of a fine-tuned model: its base
    job: str | None = None  # of a fine-tuned model: the job that made it
    adapter: str | None = None  # its name in the AsyncLLM
    archived: bool = False
    title: str | None = None  # what its owner calls it
    owner: str | None = None  # who alone sees it; None: everyone
    classifier: Classifier | None = None

    @property
    def files(self) -> NamedModel:
        """What training would go on from."""
        adapter = self.adapter or self.llm.default_adapter
        return NamedModel(self.llm.checkpoint.path, None if adapter is None else self.llm.adapters.folder(adapter))

    def is_seen_by(self, owner: str) -> bool:
        return self.owner is None or self.owner == owner

    async def start(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        *,
        owner: str,
        salt: str,
        priority: int = 0,
        meter: Meter | None = None,
    ) -> Stream:
        """As AsyncLLM.start, with this model's adapter."""
        return await self.llm.start(
            prompt, sampling, owner=owner, salt=salt, priority=priority, adapter=self.adapter, meter=meter
        )

    async def embed(
        self, batch: Sequence[Sequence[int]], *, owner: str, salt: str, priority: int = 0, meter: Meter | None = None
    ) -> Tensor:
        """As AsyncLLM.embed_token_ids, with this model's adapter."""
        return await self.llm.embed_token_ids(
            batch, owner=owner, salt=salt, priority=priority, adapter=self.adapter, meter=meter
        )

    async def classify(
        self, token_ids: Sequence[int], *, owner: str, salt: str, priority: int = 0, meter: Meter | None = None
    ) -> Mapping[str, Mapping[str, float]]:
        """Probability of each label by target, of a model that was trained to tell them."""
        if self.classifier is None:
            raise ValueError(f"{self.name} is no classifier")
        hidden_D = await self.llm.last_hidden(
            token_ids, owner=owner, salt=salt, priority=priority, adapter=self.adapter, meter=meter
        )
        return self.classifier.probabilities(hidden_D)


def serve_model(name: str, llm: AsyncLLM, **card: Any) -> ServedModel:
    """A model as it can be served: what it is able to do is read off its vocabulary and chat format."""
    tokenizer = llm.tokenizer
    features = tokenizer.chat.features if isinstance(tokenizer.chat, MistralChat) else None
    can_chat = tokenizer.chat is not None
    capabilities = Capabilities(
        completion_chat=can_chat,
        function_calling=features is not None and features.tools_before is not None,
        completion_fim=bool({"[SUFFIX]", "▁<SUF>"} & tokenizer.control_names),
        reasoning=features is not None and features.thinks,
        classification=can_chat,
        moderation=can_chat,
        fine_tuning=can_chat and llm.checkpoint.path.is_dir(),
    )
    grammars = GrammarCompiler(tokenizer, llm.checkpoint.config.vocab_size)
    advised: dict[str, Any] = {"temperature": DEFAULT_TEMPERATURE, **llm.checkpoint.sampling}
    return ServedModel(name, llm, grammars, capabilities, SamplingParams(**advised), **card)


def serve_adapter(base: ServedModel, name: str, folder: Path, **card: Any) -> ServedModel:
    """A fine-tuned model beside its base, in the same engine; to be added to the registry, at any time. Raises
    ConfigError or CheckpointError for an adapter that does not fit the base."""
    adapter = base.llm.adapters.load(folder, name)
    card = {"created": int(time.time()), "description": None, **card}
    return dataclasses.replace(base, name=name, adapter=adapter, root=base.name, aliases=[], **card)


def serve_classifier(base: ServedModel, name: str, folder: Path, **card: Any) -> ServedModel:
    """As `serve_adapter`, of one that was trained with a head: it tells labels, and does nothing else."""
    classifier = open_classifier(folder, base.llm.checkpoint.config.dim)
    capabilities = Capabilities(classification=True, fine_tuning=base.capabilities.fine_tuning)
    return serve_adapter(base, name, folder, classifier=classifier, capabilities=capabilities, **card)


def serve_fine_tuned(base: ServedModel, name: str, folder: Path, *, kind: str, **card: Any) -> ServedModel:
    """What a job of type `kind`, completion or classifier, has made."""
    serve = serve_classifier if kind == "classifier" else serve_adapter
    return serve(base, name, folder, **card)


class ModelRegistry:
    """Used from the event loop only."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._aliases: dict[str, str] = {}
        self.stand_in: str | None = None  # the model that requests get whose model is not served

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    def add(self, model: ServedModel) -> None:
        """Serve a model from now on. Raises ValueError for a name or alias that is taken."""
        for name in (model.name, *model.aliases):
            if name in self._models or name in self._aliases:
                raise ValueError(f"a model named {name!r} is served already")
        self._models[model.name] = model
        self._aliases |= dict.fromkeys(model.aliases, model.name)

    def remove(self, name: str) -> ServedModel:
        """Serve no new request with it; those running end by themselves. Raises KeyError."""
        model = self._models.pop(name)
        self._aliases = {alias: target for alias, target in self._aliases.items() if target != model.name}
        if model.adapter is not None:
            model.llm.unload_adapter(model.adapter)
        return model

    def find(self, name: str) -> ServedModel | None:
        """Whoever's it is."""
        return self._models.get(self._aliases.get(name, name))

    def seen_by(self, owner: str) -> list[ServedModel]:
        return [model for model in self if model.is_seen_by(owner)]

    def get(self, name: str, owner: str) -> ServedModel:
        """For routes that name a model in their path. Raises ApiError 404."""
        model = self.find(name)
        if model is None or not model.is_seen_by(owner):
            raise ApiError(404, f"model {name!r} does not exist", param="model", code="model_not_found")
        return model

    def look_up(self, name: str, owner: str) -> ServedModel | None:
        """What answers requests that give this name."""
        model = self.find(name)
        if (model is None or not model.is_seen_by(owner)) and self.stand_in is not None:
            model = self.find(self.stand_in)
        return model if model is not None and model.is_seen_by(owner) and not model.archived else None

    def resolve(self, name: str, owner: str) -> ServedModel:
        """For requests that name a model in their body. Raises ApiError 400 as Mistral's API does."""
        model = self.look_up(name, owner)
        if model is None:
            raise ApiError(
                400,
                f"Invalid model: {name}; GET /v1/models lists those served",
                kind="invalid_model",
                param="model",
                code="1500",
            )
        return model

    @property
    def aliases(self) -> Mapping[str, str]:
        return self._aliases
