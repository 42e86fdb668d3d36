"""Which tokens of a row are global: rules by name, and `register("mine")` for your own.

A rule is a function of the roles of a row's tokens (see `datamodules.tasks.rows.Role`). What is
registered is a factory that returns one. Another package adds rules through the entry-point group
`sparse_patterns.global_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.tasks.rows import Role
from sparse_patterns.registry import Registry

__all__ = ["OfRoles", "Rule", "describe", "get", "names", "register", "registry"]

Rule = Callable[[Tensor], Tensor]
"""Takes roles, int64 (length,), and returns which tokens are global, bool (length,)."""

registry: Registry[Rule] = Registry("global-token rule", "sparse_patterns.global_tokens")

register = registry.register
get = registry.get
names = registry.names
describe = registry.describe


@dataclass(frozen=True)
class OfRoles:
    """Makes the tokens of some roles global."""

    roles: tuple[int, ...]

    def __call__(self, roles: Tensor) -> Tensor:
        """Return where `roles` is one of these."""
        return torch.isin(roles, torch.tensor(self.roles, dtype=roles.dtype))


@register("none")
def none() -> Rule:
    """No token is global."""
    return OfRoles(())


@register("first")
def first() -> Rule:
    """The first token of a row."""
    return OfRoles((Role.FIRST,))


@register("question")
def question() -> Rule:
    """The first token and the question."""
    return OfRoles((Role.FIRST, Role.QUESTION))


@register("question-and-candidates")
def question_and_candidates() -> Rule:
    """The first token, the question and the candidates, with the marks around them."""
    return OfRoles((Role.FIRST, Role.QUESTION, Role.CANDIDATE))


@register("question-titles-and-sentences")
def question_titles_and_sentences() -> Rule:
    """The first token, the question, the mark before each title and that after each sentence."""
    return OfRoles((Role.FIRST, Role.QUESTION, Role.TITLE_MARK, Role.SENTENCE_MARK))
