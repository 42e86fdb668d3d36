"""FlexAttention on the CPU: its masks and its plain operators, run without being compiled."""

from __future__ import annotations

import torch

from sparse_patterns.kernels.base import Request, Tolerance
from sparse_patterns.kernels.flex.kernel import FlexKernel


class EmulatedFlex(FlexKernel):
    """The kernel, allowed on the CPU and in float64, where its arithmetic is exact."""

    tolerances = {  # noqa: RUF012
        **FlexKernel.tolerances,
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
    }

    def why_not(self, request: Request) -> list[str]:
        return []
