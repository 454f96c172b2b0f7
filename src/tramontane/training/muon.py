"""Muon: the update of a weight matrix is its momentum made orthogonal, so that every direction moves equally far.

Sources: K. Jordan, "Muon: an optimizer for hidden layers" (2024); per-shape scale of arXiv:2502.16982, with which
the learning rate and weight decay of AdamW carry over; iteration coefficients of arXiv:2505.16932 ("Polar Express");
per-row second moment of arXiv:2510.05491 ("NorMuon") as an option.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Quintic steps x <- a x + b x^3 + c x^5 that take singular values of 1e-3 … 1 to 0.85 … 1.15 in five, which Muon does
# not tell from 1 (arXiv:2505.16932; the safety factor keeps bfloat16 rounding from leaving the interval).
POLAR_STEPS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SAFETY = 1.02


def orthogonalise(matrices_NOI: Tensor) -> Tensor:
    """The nearest orthogonal matrices U V^T (of U S V^T), to within a few per cent; (N, O, I) in the input's dtype.

    Matrices of one shape are done together: on a GPU a layer's worth costs as much as one.
    """
    x = matrices_NOI
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-7)
    for a, b, c in POLAR_STEPS:
        gram = x @ x.mT
        # (b + c gram) gram x, with the smaller product formed first
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(Optimizer):
    """For the two-dimensional weights inside the layers; embeddings, output and norms belong to AdamW.

    `momentum` is Nesterov's. `normalise_rows` divides each row of the update by its running root mean square
    (decay `beta2`), keeping the update's norm. The iteration runs in `compute_dtype`; bfloat16 is enough.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        normalise_rows: bool = False,
        beta2: float = 0.95,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "normalise_rows": normalise_rows,
            "beta2": beta2,
        }
        super().__init__(params, defaults)
        self.compute_dtype = compute_dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    by_shape[(*param.shape, param.device, param.dtype)].append(param)
            for params in by_shape.values():
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
                if group["normalise_rows"]:
                    self.state[p]["row_square"] = torch.zeros(p.shape[0], 1, dtype=p.dtype, device=p.device)
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        directions = torch._foreach_lerp(grads, momenta, group["momentum"])
        stacked_NOI = torch.stack([full_tensor(d) for d in directions])
        updates_NOI = orthogonalise(stacked_NOI.to(self.compute_dtype)).to(stacked_NOI.dtype)
        if group["normalise_rows"]:
            self._normalise_rows(updates_NOI, params, group["beta2"])
        num_out, num_in = params[0].shape
        scale = 0.2 * max(num_out, num_in) ** 0.5  # root mean square 0.2, that of a typical AdamW update
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        shards = [like(update, p) for update, p in zip(updates_NOI.unbind(), params, strict=True)]
        torch._foreach_add_(params, shards, alpha=-group["lr"] * scale)

    def _normalise_rows(self, updates_NOI: Tensor, params: list[Tensor], beta2: float) -> None:
        squares_NO1 = updates_NOI.square().mean(-1, keepdim=True)
        norms_N11 = updates_NOI.norm(dim=(-2, -1), keepdim=True)
        averages = [self.state[p]["row_square"] for p in params]
        torch._foreach_lerp_(averages, list(squares_NO1.unbind()), 1 - beta2)
        updates_NOI.mul_(torch.stack(averages).clamp_min(1e-10).rsqrt())
        updates_NOI.mul_(norms_N11 / updates_NOI.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that FSDP may have split over processes."""
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole


def like(whole: Tensor, param: Tensor) -> Tensor:
    """`whole` split over processes as `param` is."""
    if not hasattr(param, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, param.device_mesh, param.placements)  # type: ignore[attr-defined]
