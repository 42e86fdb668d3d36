"""Data sets by name: `get("text8", path="data")`, and `register("mine")` for your own.

Another package adds data sets through the entry-point group `sparse_patterns.datamodules`.
"""

from __future__ import annotations

from lightning import LightningDataModule

from sparse_patterns.registry import Registry

__all__ = ["describe", "get", "names", "path_of", "register", "registry"]

registry: Registry[LightningDataModule] = Registry("data set", "sparse_patterns.datamodules")

register = registry.register
get = registry.get
names = registry.names
describe = registry.describe
path_of = registry.path_of
