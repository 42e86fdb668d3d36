"""Communication between processes by the models themselves; the strategy does the rest."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

__all__ = ["gather", "shard", "sum_over_processes", "world_size"]


def world_size() -> int:
    """Return the number of processes that train together, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of every process's tensor, on each of them."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def gather(state: Any) -> list[Any]:
    """Return the object of every process, in order of rank, on each of them."""
    states = [state] * world_size()
    if len(states) > 1:
        dist.all_gather_object(states, state)
    return states


def shard(net: nn.Module, blocks: nn.ModuleList, mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimizer state over the data-parallel processes (FSDP2).

    Each block is gathered just before it is used; what is outside the blocks is one more unit.

    Args:
        net: The whole network.
        blocks: Its layers.
        mesh: A mesh with the dimensions `data_parallel` and `tensor_parallel`, as Lightning makes
            it.

    Raises:
        ValueError: The mesh splits single tensors over processes, which no model here does.
    """
    from torch.distributed.fsdp import fully_shard

    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            "the model is sharded by data_parallel_size, not by tensor_parallel_size: got "
            f"data_parallel_size={mesh['data_parallel'].size()} and "
            f"tensor_parallel_size={mesh['tensor_parallel'].size()}; "
            f"set {mesh.size()} and 1"
        )
    for block in blocks:
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(net, mesh=mesh["data_parallel"])
