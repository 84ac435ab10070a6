"""Checkpoints in each published layout with values from a seed, as small as their code permits.

A golden file holds names and shapes of a checkpoint's tensors, its anchors, and what the original code computes with
the values of `random_state` for `picture`. Its generating scripts are not part of this repository, since they run the
original code; `golden/README.md` says how they were run.
"""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

GOLDEN = Path(__file__).with_name("golden")
SAMPLE = 3000


def read_golden(name: str) -> tuple[dict[str, list[int]], dict[str, NDArray[Any]]]:
    """Return the shapes of a checkpoint's tensors by name, and the outputs by name."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        outputs = dict(arrays)
    return json.loads(bytes(outputs.pop("shapes"))), outputs


def sample(values: Any) -> NDArray[np.float32]:
    """Return at most `SAMPLE` values of an array, evenly spaced."""
    flat = np.asarray(values, dtype=np.float32).ravel()
    return flat[:: max(1, -(-flat.size // SAMPLE))]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return an RGB image [height, width, 3] of smooth shapes and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(5, 40) + y / rng.uniform(5, 40) + rng.uniform(0, 6)) for _ in range(3)]
    noise = rng.uniform(-20, 20, (height, width, 3))
    return (np.stack(waves, axis=-1) * 90 + 128 + noise).clip(0, 255).astype(np.uint8)


def random_state(
    shapes: dict[str, list[int]], fixed: dict[str, NDArray[Any]], seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return values for tensors of these shapes; each depends on its own name alone. `fixed` holds the anchors."""
    state = {}
    for name, shape in shapes.items():
        # VinVL's attribute head shares the box head's tensors
        own_name = name.replace("attribute.feature_extractor.", "roi_heads.box.feature_extractor.")
        rng = np.random.default_rng([seed, zlib.crc32(own_name.encode())])
        if name in fixed:
            values = fixed[name]
        elif name.endswith("num_batches_tracked"):
            values = np.array(1)
        else:
            values = _values(name, shape, rng).astype(np.float32)
        state[name] = torch.from_numpy(np.ascontiguousarray(values))
    return state


def _values(name: str, shape: list[int], rng: np.random.Generator) -> NDArray[np.float64]:
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return rng.normal(0, 0.3, shape)
    if len(shape) == 1:
        is_norm = name.endswith("weight")
        last = any(part in name for part in ("conv3.norm", "bn3"))
        return rng.uniform(0.2, 0.4, shape) if is_norm and last else rng.normal(1.0 if is_norm else 0.0, 0.2, shape)
    fan_in = int(np.prod(shape[1:]))
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.4)
    return rng.normal(0, gain / np.sqrt(fan_in), shape)


# Scores that differ, boxes that stay boxes, and pixels of up to 255 that become values of about 1.
_GAINS = {
    "stem.conv1": 0.02,
    "objectness": 0.4,
    "rpn.head.cls_logits": 0.4,
    "anchor_deltas": 0.25,
    "rpn.head.bbox_pred": 0.08,
    "bbox_pred": 0.4,
    "cls_score": 2.0,
    "embed": 3.0,
    "fpn_inner": 0.2,
}


def write_checkpoint(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """Write a checkpoint as its authors do: .pkl is detectron2's form, anything else torch's."""
    if path.suffix == ".pkl":
        content = {"model": {name: tensor.numpy() for name, tensor in state.items()}, "__author__": "test"}
        path.write_bytes(pickle.dumps(content, protocol=2))
    elif path.suffix == ".bin":
        torch.save(state, path)
    else:
        torch.save({"model": state, "iteration": 1}, path)
    return path
