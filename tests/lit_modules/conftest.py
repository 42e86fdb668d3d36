"""What Lightning says about its own workings is no error of these tests."""

from pathlib import Path

import pytest

NOTICES = (
    # Lightning asks torch for a tree in a way that torch has renamed.
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    # Advice to use processes for loading, logs or a scheduler that a small test does not want.
    "ignore:.*does not have many workers which may be a bottleneck.*",
    "ignore:.*is smaller than the logging interval.*",
    "ignore:The `srun` command is available on your system but is not used.*",
    "ignore:.*Checkpoint directory .* exists and is not empty.*",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for notice in NOTICES:
                # In front, so that a mark of the test itself is stronger.
                item.add_marker(pytest.mark.filterwarnings(notice), append=False)
