"""What the machine is, and the rate it can reach at best."""

import datetime
import platform
from collections.abc import Callable
from pathlib import Path

import torch

MATMUL_SIZE = 2048
MATMUL_FLOP = 2 * MATMUL_SIZE**3


def matmul() -> Callable[[], object]:
    """A large float32 matrix product into memory of its own: the rate that shares are taken of."""
    left, right = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE)
    out = torch.empty(MATMUL_SIZE, MATMUL_SIZE)
    return lambda: torch.mm(left, right, out=out)


def processor() -> str:
    """The processor's name, as far as the operating system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def about() -> dict[str, str | int]:
    """What a reader of the figures has to know: date, processor, versions and threads."""
    found: dict[str, str | int] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda or "none"}
    return found
