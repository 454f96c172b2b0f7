"""The operations of training: float32 master weights beside activations of any dtype, and few saved tensors.

Weights keep their own dtype (float32) and are cast to that of the activations where they are used, so that the
gradient arrives in float32 and microbatches add up without rounding; there is one copy of each weight, no autocast
and no loss scaling. On a CPU, norm, rotation and gate are single autograd nodes that save their inputs alone; under a
compiler they are left in plain torch, which fuses them better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane.ops import reference
from tramontane.ops.torch_ops import TorchOps

if TYPE_CHECKING:
    from tramontane.ops.packed_weight import PackedWeight


class TrainingOps(TorchOps):
    name = "training"

    def __init__(self, *, compiled: bool) -> None:
        self.compiled = compiled

    def linear(self, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        return F.linear(x_TI, weight_OI.to(x_TI.dtype))

    def packed_linear(self, x_TI: Tensor, weight: PackedWeight) -> Tensor:
        out_TO: Tensor = _PackedLinear.apply(x_TI, weight)  # type: ignore[no-untyped-call]
        return out_TO

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        if self.compiled:
            return reference.rms_norm(x_TD, weight_D.to(x_TD.dtype), eps)
        out_TD: Tensor = _RmsNorm.apply(x_TD, weight_D, eps)  # type: ignore[no-untyped-call]
        return out_TD

    def rotate(self, x_THK: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        if self.compiled:
            return reference.rotate(x_THK, cos_TC, sin_TC)
        out_THK: Tensor = _Rotate.apply(x_THK, cos_TC, sin_TC)  # type: ignore[no-untyped-call]
        return out_THK

    def swiglu(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        if self.compiled:
            return reference.swiglu(gate_TF, up_TF)
        out_TF: Tensor = _Swiglu.apply(gate_TF, up_TF)  # type: ignore[no-untyped-call]
        return out_TF


class _PackedLinear(torch.autograd.Function):
    """y = x W^T for a frozen packed W (QLoRA, arXiv:2305.14314): W is unpacked where it is used, one at a time, and
    again for the backward pass, so that only its blocks are held."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight: PackedWeight) -> Tensor:
        ctx.weight = weight
        return F.linear(x_TI, weight.dequantise().to(x_TI.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [grad_TO] = gradients
        return grad_TO @ ctx.weight.dequantise().to(grad_TO.dtype), None


class _RmsNorm(torch.autograd.Function):
    """y = x r w, r = 1 / rms(x): dx = r (g w - x r mean(g w x r)), dw = sum over rows of g x r."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        norm_T1 = torch.linalg.vector_norm(x_TD.float(), dim=-1, keepdim=True)
        inverse_T1 = norm_T1.square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_TD, weight_D, inverse_T1)
        # float32 x times r rounds once, as the definition does
        out_TD: Tensor = (x_TD.float() * inverse_T1).to(x_TD.dtype).mul_(weight_D.to(x_TD.dtype))
        return out_TD

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_D, inverse_T1 = ctx.saved_tensors
        dtype = grad_TD.dtype
        grad_TD = grad_TD.float()  # converted once: torch's mixed products convert element by element
        unit_TD = x_TD.float() * inverse_T1
        product_TD = grad_TD * unit_TD
        grad_weight_D = product_TD.sum(0).to(weight_D.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight_D, None
        shift_T1 = (product_TD @ weight_D.float()).div_(x_TD.shape[-1])[:, None]
        grad_x_TD = grad_TD * weight_D.float()
        grad_x_TD.sub_(unit_TD.mul_(shift_T1)).mul_(inverse_T1)
        return grad_x_TD.to(dtype), grad_weight_D, None


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the rotation by the opposite angle; nothing but the angles is saved."""

    @staticmethod
    def forward(ctx: Any, x_THK: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TC, sin_TC)
        return _rotated(x_THK, cos_TC, sin_TC)

    @staticmethod
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor, None, None]:
        cos_TC, sin_TC = ctx.saved_tensors
        return _rotated(grad_THK, cos_TC, -sin_TC), None, None


def _rotated(x_THK: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Pairs of channels times e^(i angle), in float32."""
    pairs_THC = torch.view_as_complex(x_THK.float().contiguous().view(*x_THK.shape[:-1], -1, 2))
    turns_T1C = torch.complex(cos_TC, sin_TC)[:, None]
    return torch.view_as_real(pairs_THC * turns_T1C).flatten(-2).to(x_THK.dtype)


class _Swiglu(torch.autograd.Function):
    """y = silu(g) u, s = sigmoid(g): du = dy silu(g), dg = dy u s (1 + g (1 - s))."""

    @staticmethod
    def forward(ctx: Any, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TF, up_TF)
        return F.silu(gate_TF).mul_(up_TF)

    @staticmethod
    def backward(ctx: Any, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
        gate_TF, up_TF = ctx.saved_tensors
        grad_up_TF = F.silu(gate_TF).mul_(grad_TF)
        grad_gate_TF = torch.ops.aten.silu_backward(grad_TF * up_TF, gate_TF)
        return grad_gate_TF, grad_up_TF
