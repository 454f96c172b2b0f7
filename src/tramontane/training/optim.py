"""Which update each weight gets: AdamW, or Muon for the matrices inside layers; and the state of both by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tramontane.errors import CheckpointError
from tramontane.training.muon import Muon, full_tensor, like
from tramontane.training.recipe import OptimizerRecipe

HIDDEN_MATRICES = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
EMBEDDINGS = ("tok_embeddings", "output")


class OptimizerSet:
    """One or two optimizers over named parameters, stepped, scaled and saved as one."""

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        recipe: OptimizerRecipe,
        *,
        compute_dtype: torch.dtype,
    ) -> None:
        """`compute_dtype` is that of matrix products inside an update; state and weights keep their own."""
        self.params = dict(params)
        self.optimizers: list[Optimizer] = []
        muon: list[nn.Parameter] = []
        adamw: dict[tuple[float, float], list[nn.Parameter]] = {}  # by (lr, weight decay)
        for name, param in self.params.items():
            owner = name.split(".")[-2] if "." in name else name
            if recipe.kind == "muon" and owner in HIDDEN_MATRICES and param.ndim == 2:
                muon.append(param)
                continue
            is_embedding = owner in EMBEDDINGS
            lr = recipe.embedding_lr if is_embedding and recipe.embedding_lr is not None else recipe.lr
            decays = param.ndim >= 2 and (recipe.decay_embeddings or not is_embedding)
            adamw.setdefault((lr, recipe.weight_decay if decays else 0.0), []).append(param)
        if muon:
            self.optimizers.append(
                Muon(
                    muon,
                    lr=recipe.muon_lr,
                    momentum=recipe.muon_momentum,
                    weight_decay=recipe.weight_decay,
                    normalise_rows=recipe.normalise_rows,
                    compute_dtype=compute_dtype,
                )
            )
        if adamw:
            groups = [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in adamw.items()]
            beta1, beta2 = recipe.betas
            self.optimizers.append(AdamW(groups, betas=(beta1, beta2), eps=recipe.eps, fused=True))
        self._peaks = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, factor: float) -> None:
        """Update every parameter at `factor` times its peak learning rate, from `.grad`."""
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.step()

    def zero_grad(self) -> None:
        for param in self.params.values():
            param.grad = None

    def gradients(self) -> list[Tensor]:
        return [param.grad for param in self.params.values() if param.grad is not None]

    def state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(`parameter/slot`, whole tensor) of everything the updates remember."""
        names = {id(param): name for name, param in self.params.items()}
        for optimizer in self.optimizers:
            for param, slots in optimizer.state.items():
                for slot, value in slots.items():
                    yield f"{names[id(param)]}/{slot}", full_tensor(value)

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state_tensors` gave. Raises CheckpointError if it belongs to other parameters."""
        owners = {id(p): o for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for key, value in tensors.items():
            name, _, slot = key.rpartition("/")
            if name not in self.params:
                raise CheckpointError(f"the saved optimizer state holds {name!r}, which this run does not train")
            param = self.params[name]
            if value.shape == param.shape:
                held: Any = like(value.to(param.device), param)
            else:  # counters and row averages are whole on every process
                held = value.to(param.device)
            owners[id(param)].state[param][slot] = held
