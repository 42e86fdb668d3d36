"""A class whose instances are completed after the constructor of the last subclass."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["Completed"]


class Completed(type):
    """The type of classes with a method `complete()`, called when an instance has been made.

    A base class cannot build in its own `__init__` what a method of a subclass decides: the
    attributes that the method reads are set only after `super().__init__()` has returned. Here
    the instance is whole when the call of the class returns, and a subclass calls nothing for it.
    Copying and unpickling do not complete again.
    """

    def __call__(cls, *args: Any, **given: Any) -> Any:
        """Make an instance and complete it."""
        # Not by super(): Lightning collects the arguments of the constructors from the frames of
        # functions that use it.
        made = type.__call__(cls, *args, **given)
        made.complete()
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        """The arguments of the constructor, for `inspect.signature`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])
