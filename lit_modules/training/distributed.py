"""Communication between processes by the models themselves; the strategy does the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

import lit_modules.training.context_parallel  # noqa: F401  Registers its strategies by name.
from lit_modules.nn.materialize import allocate, reset

__all__ = [
    "device_of_run",
    "gather",
    "is_sharded",
    "leave_meta",
    "place",
    "place_head",
    "replicas",
    "sum_over_processes",
    "world_size",
]


def world_size() -> int:
    """Return the number of processes that train together, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of every process's tensor, on each of them."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def replicas(module: LightningModule) -> int:
    """Return how many batches are trained on at the same time, by one process each or by several.

    With one process for each, that is the number of processes.
    """
    trainer = getattr(module, "_trainer", None)
    given = None if trainer is None else trainer.distributed_sampler_kwargs
    return world_size() if given is None else int(given["num_replicas"])


def gather(state: Any) -> list[Any]:
    """Return the object of every process, in order of rank, on each of them."""
    states = [state] * world_size()
    if len(states) > 1:
        dist.all_gather_object(states, state)
    return states


def place(
    net: Any, blocks: nn.ModuleList, *, mesh: DeviceMesh | None, device: torch.device | None
) -> None:
    """Give memory and fresh values to weights that have none, and shard them over a mesh (FSDP2).

    Block by block: of a network made on the meta device, a process never holds more than one block
    besides its own shards. What is already sharded stays as it is.

    Args:
        net: The whole network; it has `reset_parameters(modules)`.
        blocks: Its layers. Each is gathered just before it is used; what is outside of them is one
            more unit.
        mesh: A mesh with the dimensions `data_parallel` and `tensor_parallel`, as Lightning makes
            it; None to shard nothing.
        device: Where weights get memory; None leaves them without.

    Raises:
        ValueError: The mesh splits single tensors over processes, which no model here does.
    """

    def fill(modules: Iterable[nn.Module]) -> None:
        if device is not None and (fresh := allocate(modules, device)):
            net.reset_parameters(fresh)

    if mesh is None:
        fill(net.modules())
        return
    data_parallel = _data_parallel(mesh)
    if is_sharded(net):
        return
    from torch.distributed.fsdp import fully_shard

    inside = {module for block in blocks for module in block.modules()}
    for block in blocks:
        fill(block.modules())
        fully_shard(block, mesh=data_parallel)
    fill([module for module in net.modules() if module not in inside])
    fully_shard(net, mesh=data_parallel)


def place_head(
    head: nn.Module,
    draw: Callable[[nn.Module], None],
    *,
    mesh: DeviceMesh | None,
    device: torch.device | None,
) -> None:
    """Give memory and fresh values to the head of a task, and shard it as one unit over a mesh.

    Args:
        head: Called as a module; what is already sharded stays as it is.
        draw: What draws its fresh weights, beyond the `reset_parameters` of each module.
        mesh: As for `place`.
        device: As for `place`.

    Raises:
        ValueError: As for `place`.
        TypeError: A module of a head without memory has no `reset_parameters`.
    """
    if device is not None and (fresh := allocate(head.modules(), device)):
        reset(module for module in head.modules() if module in fresh)
        draw(head)
    if mesh is None or is_sharded(head) or next(head.parameters(), None) is None:
        return
    from torch.distributed.fsdp import fully_shard

    fully_shard(head, mesh=_data_parallel(mesh))


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module is a unit of FSDP2."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def device_of_run(module: LightningModule) -> torch.device | None:
    """Return where a module gets memory: the device of its trainer, or the CPU without one.

    None under `torch.device("meta")`, which asks for no memory.
    """
    # The attribute, not the property: without a trainer the property raises.
    trainer = getattr(module, "_trainer", None)
    if trainer is not None:
        found: torch.device = trainer.strategy.root_device
        return found
    default = torch.get_default_device()
    return None if default.type == "meta" else default


def leave_meta(module: LightningModule, device: torch.device | None) -> None:
    """Tell a module made on the meta device where its weights are by now."""
    if device is not None and module.device.type == "meta":
        module.to(device)


def _data_parallel(mesh: DeviceMesh) -> DeviceMesh:
    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            "the model is sharded by data_parallel_size, not by tensor_parallel_size: got "
            f"data_parallel_size={mesh['data_parallel'].size()} and "
            f"tensor_parallel_size={mesh['tensor_parallel'].size()}; "
            f"set {mesh.size()} and 1"
        )
    return mesh["data_parallel"]
