"""The optimizer of every model here: AdamW, with the learning rate a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

__all__ = [
    "check_rates",
    "configure_adamw",
    "learning_rate_factor",
    "parameter_groups",
    "put_on_step",
]


class _Schedule(LambdaLR):
    """Leaves the rates of groups as they are that a callback adds, to train unfrozen layers."""

    def get_lr(self) -> list[Any]:
        groups = self.optimizer.param_groups[len(self.base_lrs) :]
        return [*super().get_lr(), *(group["lr"] for group in groups)]


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Split parameters into those that decay and those that do not.

    Matrices (projections, embeddings) decay; vectors (norms, biases) are scales and offsets,
    which decay would pull away from their task. Shared parameters are listed once.

    Args:
        parameters: What is trained; parameters without gradients are left out.
        weight_decay: The decay of the first group.

    Raises:
        ValueError: There is nothing to train.
    """
    trained = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    if not trained:
        raise ValueError("the optimizer needs at least one parameter with requires_grad")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate_factor(module: LightningModule) -> Callable[[int], float]:
    """Return the learning-rate factor of the stages of the run, by optimizer step.

    Constant where the module has no trainer, or the trainer no stages.
    """
    # The attribute, not the property: without a trainer the property raises.
    trainer = getattr(module, "_trainer", None)
    for callback in getattr(trainer, "callbacks", ()):
        factor = getattr(callback, "learning_rate_factor", None)
        if callable(factor):
            return factor
    return lambda step: 1.0


def check_rates(
    learning_rate: float,
    weight_decay: float,
    betas: Sequence[float],
    **rates: float | None,
) -> None:
    """Refuse numbers that AdamW cannot use. A model asks when it is made, not when it is trained.

    Args:
        learning_rate: The peak rate.
        weight_decay: Decoupled decay of the matrices.
        betas: Decay of the running means of gradient and squared gradient.
        **rates: More peak rates by the names of their arguments; None for one that is not given.

    Raises:
        ValueError: One is out of range; the message names it.
    """
    for name, rate in {"learning_rate": learning_rate, **rates}.items():
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"{name} must be > 0 and finite, got {rate}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be >= 0 and finite, got {weight_decay}")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in 0..1 (1 excluded), got {list(betas)}")


def configure_adamw(
    module: LightningModule,
    *,
    learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    rates: Mapping[str, float] | None = None,
    factor: Callable[[int], float] | None = None,
) -> dict[str, Any]:
    """Make optimizer and scheduler in the form `configure_optimizers` returns.

    Call it from `configure_optimizers`, never earlier: a sharding strategy replaces the parameters
    in `configure_model`.

    Args:
        module: The module whose parameters are trained.
        learning_rate: The peak rate, before the scale of the stage.
        weight_decay: Decoupled decay of the matrices.
        betas: Decay of the running means of gradient and squared gradient.
        eps: Added to the root of the squared gradient.
        rates: Peak rates of parts of the module, by the names of its children; all others have
            `learning_rate`.
        factor: What the rates are multiplied by at an optimizer step; by default the factor of
            the stages.

    Raises:
        ValueError: A number is out of range, or the module has nothing to train.
    """
    rates = dict(rates or {})
    check_rates(
        learning_rate,
        weight_decay,
        betas,
        **{f"the learning rate of {name}": rate for name, rate in rates.items()},
    )
    parts: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rate = rates.get(name.partition(".")[0], learning_rate)
            parts.setdefault(rate, []).append(parameter)
    groups = [
        {**group, "lr": rate}
        for rate, parameters in (parts or {learning_rate: []}).items()
        for group in parameter_groups(parameters, weight_decay)
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps)
    scheduler = _Schedule(optimizer, factor or learning_rate_factor(module))
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "learning_rate"},
    }


def put_on_step(trainer: Trainer) -> None:
    """Set the schedulers to the optimizer step of the run, and the rates to those of that step."""
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if isinstance(scheduler, LambdaLR):
            scheduler.last_epoch = trainer.global_step
            rates = [
                base * function(trainer.global_step)
                for base, function in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            ]
            # Groups beyond those are of a callback that unfreezes layers, and has its own rates.
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=False):
                group["lr"] = rate
            scheduler._last_lr = rates
