"""The machine and the versions that results depend on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
import transformers


def versions(device: str = "cpu") -> dict[str, str]:
    """Return the chip and the versions of the packages."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    chip = torch.cuda.get_device_name() if device == "cuda" else names[0].partition(": ")[2] if names else ""
    return {
        "chip": chip or platform.processor(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
