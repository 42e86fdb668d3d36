"""Modules whose pretrained weights may be gone: a checkpoint still brings all that is needed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lit_modules.pretrained.backbone import EncoderSettings

__all__ = ["EncoderModule"]


class EncoderModule(LightningModule):
    """A module on the encoder of `settings`, built in the constructor.

    Only where there is nothing at `settings.path`, and nothing else gives the sizes, it waits for
    the checkpoint that names them: it has no parameters until then, and what needs some raises a
    `FileNotFoundError`.
    """

    settings: EncoderSettings

    @abstractmethod
    def build(self) -> None:
        """Make encoder and head by the settings, and note in these what was built."""

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether the module has no network yet."""

    def check_built(self) -> None:
        """Refuse to go on without weights.

        Raises:
            FileNotFoundError: The module waits for a checkpoint.
        """
        if self.waits:
            raise FileNotFoundError(
                f"encoder path {self.settings.path}: no such file or folder; without it the model "
                "has no weights until a checkpoint of it is loaded, by load_from_checkpoint or by "
                "ckpt_path of a trainer"
            )

    def where(self) -> AbstractContextManager[Any]:
        """Return the context to build in: pretrained weights are read into memory in any case."""
        reads = self.settings.path is not None and self.settings.architecture is None
        meta = torch.get_default_device().type == "meta"
        return torch.device("cpu") if reads and meta else nullcontext()

    def requires_grad_(self, requires_grad: bool = True) -> EncoderModule:
        """Freeze or train all parameters.

        Raises:
            FileNotFoundError: The module waits for a checkpoint.
        """
        self.check_built()
        super().requires_grad_(requires_grad)
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; see `torch.nn.Module.load_state_dict`.

        Raises:
            FileNotFoundError: The module waits for a checkpoint, of which this is only a part.
        """
        self.check_built()
        return super().load_state_dict(state_dict, strict, assign)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build what the checkpoint fills, where the pretrained weights are gone."""
        if not self.waits:
            return
        saved = checkpoint["hyper_parameters"]["encoder"]
        given = {**self.settings.plain(), "architecture": saved["architecture"]}
        self.settings = EncoderSettings.of(given)
        self.build()
        # What was asked of the module while it waited.
        if self.device.type != "meta":
            self.to(device=self.device, dtype=self.dtype)
        self.train(self.training)
        self.configure_model()
