"""A pattern in the configuration of a model, so that it is saved and loaded with the model."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from sparse_patterns.config.codec import to_config
from sparse_patterns.huggingface.interface import SAVED
from sparse_patterns.spec.base import Pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAVE = "save_pretrained"


def keep(model: PreTrainedModel, pattern: Pattern) -> None:
    """Write a pattern into the model's configuration as plain data.

    One that has no plain form (a `Rule` whose function cannot be imported) makes saving fail, and
    nothing before it.
    """
    model.__dict__.pop(_SAVE, None)
    try:
        plain: dict[str, Any] | None = to_config(pattern)
    except (TypeError, ValueError) as error:
        plain = None
        # On the object, where a method of the class cannot know of the pattern; copies and pickles
        # of the model have it too.
        model.__dict__[_SAVE] = partial(_refuse, type(model).__name__, str(error))
        if _refuse_as_part not in model._state_dict_pre_hooks.values():
            model.register_state_dict_pre_hook(_refuse_as_part)
    setattr(model.config, SAVED, plain)


def _refuse(kind: str, why: str, *_: Any, **__: Any) -> None:
    raise ValueError(
        f"{kind} cannot be saved with its pattern: {why}; set another pattern, or save the weights "
        "alone by torch.save(model.state_dict(), file)"
    )


def _refuse_as_part(model: PreTrainedModel, *_: Any) -> None:
    """Refuse when the model is saved as a part of another one, which asks it for its weights.

    A part knows nothing of the whole, so what counts is who asks; the weights alone may be had.
    """
    from transformers import PreTrainedModel

    refuse = model.__dict__.get(_SAVE)
    frame = inspect.currentframe() if refuse is not None else None
    saving = inspect.unwrap(PreTrainedModel.save_pretrained).__code__
    while frame is not None:
        if frame.f_code is saving:
            assert refuse is not None
            refuse()
        frame = frame.f_back
