"""Several processes as one: what they agree on, and weights sharded with torch's FSDP2. Started by `torchrun`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tramontane.training.tasks import TrainingModule

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class World:
    """This process among `size`; alone, every method is the identity."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether any process says so: all get the same answer."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def barrier(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()


def join_world(device: torch.device) -> World:
    """The world that torchrun describes (RANK, WORLD_SIZE, LOCAL_RANK), joined, with this process's own device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(int(os.environ["RANK"]), size, device)


def leave_world(world: World) -> None:
    if world.size > 1:
        torch.distributed.destroy_process_group()


def shard(module: TrainingModule, world: World, compute_dtype: torch.dtype) -> None:
    """Split every weight over the processes, in place; layers are gathered one at a time, in the compute dtype.

    Gradients are averaged over processes (in float32); the trainer makes sums of them again.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in module.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
