"""Features in one byte per value: int8 on a quadratic scale, or float8, each with a scale per region.

An int8 code c represents scale * (c + zero) * |c + zero|; a float8 code c (uint8 on the disk, because .npy has no
float8) represents scale * c. The quadratic scale has more codes near 0, where most values of a detector are. On
published features (coco10), a linear int8 scale reaches a cosine of 0.9999 for 1 % of the regions, the quadratic one
for all. A region without negative values has the zero point 128, so that it uses all 256 codes; otherwise the zero
point is 0.

Shapes: N regions, D feature channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

STORED_AS = {"float16": "float16", "float32": "float32", "int8": "int8", "float8_e4m3fn": "uint8"}
"""dtype of the stored array, by the value of `--feature-dtype`."""
LEAST_COSINE = {"int8": 0.9999, "uint8": 0.999}
"""Minimum cosine between a region's feature in float16 and the decoded one, by the dtype of the codes."""
_FLOAT16_LIMIT = 65520.0  # rounds to infinity
_FLOAT8_MAX = 448.0
_ZERO = 128.0  # added to the codes of a region without negative values
_SCALES_BELOW = {
    np.dtype(np.int8): {0.0: _FLOAT16_LIMIT / 127**2, _ZERO: _FLOAT16_LIMIT / 255**2},
    np.dtype(np.uint8): {0.0: _FLOAT16_LIMIT / _FLOAT8_MAX},
}
"""Scale for which the largest code exceeds float16, by the dtype of the codes and the zero point."""
_BITS_BELOW = {
    dtype: {np.float32(zero).tobytes(): int(np.float32(scale).view(np.uint32)) for zero, scale in limits.items()}
    for dtype, limits in _SCALES_BELOW.items()
}
"""The same as the bytes and bits of float32."""
CODES = tuple(_SCALES_BELOW)
"""The dtypes of codes."""


class PrecisionError(ValueError):
    """Features that one byte per value cannot represent as precisely as `LEAST_COSINE` requires."""


class SmallFeatures(NamedTuple):
    """The stored features of one image."""

    codes: NDArray[np.int8] | NDArray[np.uint8]
    """[N, D]"""
    scales: NDArray[np.float32]
    """[N, 2] scale and zero point of each region."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, D]"""
        return self.codes.shape

    def rows(self, kept: NDArray[np.intp] | slice) -> SmallFeatures:
        """Return some of the regions."""
        return SmallFeatures(self.codes[kept], self.scales[kept])


def compress(features: NDArray[Any], dtype: str) -> SmallFeatures:
    """Encode features in one byte per value.

    Args:
        features: float [N, D].
        dtype: int8 or uint8 (float8), the dtype of the codes.

    Raises:
        PrecisionError: A value is not finite in float16, or a region would be less precise than `LEAST_COSINE`.
    """
    with np.errstate(over="ignore"):
        values = features.astype(np.float16).astype(np.float32)
    if not np.isfinite(values).all():
        raise PrecisionError("a feature is NaN, infinite or too large for float16")
    unsigned = (values >= 0).all(axis=1) if dtype == "int8" else np.zeros(len(values), np.bool_)
    zero = np.where(unsigned, np.float32(_ZERO), np.float32(0))
    peaks = np.abs(values).max(axis=1, initial=0)
    scale = peaks / _largest(zero, dtype)
    shares = np.divide(values, scale[:, None], out=np.zeros_like(values), where=scale[:, None] > 0)
    small = SmallFeatures(
        _float8_codes(shares) if dtype == "uint8" else _int8_codes(shares, zero), np.stack([scale, zero], axis=1)
    )
    cosines = _cosines(values, expand(small).astype(np.float32))
    if (cosines < LEAST_COSINE[dtype]).any():
        region = int(cosines.argmin())
        raise PrecisionError(
            f"{dtype.replace('uint8', 'float8')} represents the feature of region {region} with a cosine of "
            f"{cosines[region]:.6f} to the original; at least {LEAST_COSINE[dtype]} is required"
        )
    return small


def expand(small: SmallFeatures) -> NDArray[np.float16]:
    """Decode features to float16 [N, D], read-only."""
    import torch  # NumPy rounds to float16 twenty times slower

    features: NDArray[np.float16] = expand_codes(*(torch.from_numpy(part.copy()) for part in small)).numpy()
    features.flags.writeable = False
    return features


def expand_codes(codes: Tensor, scales: Tensor) -> Tensor:
    """Decode features to float16 [..., N, D] on the device of the codes, with the same bits on every device.

    The product of two codes is exact in float32. Only one multiplication and the conversion to float16 round.

    Args:
        codes: int8, or uint8 (float8), [..., N, D].
        scales: float32 [..., N, 2].
    """
    import torch

    scale, zero = scales[..., :1], scales[..., 1:]
    if codes.dtype == torch.uint8:
        return codes.view(torch.float8_e4m3fn).float().mul_(scale).half()
    values = codes.float().add_(zero)
    return values.mul_(values.abs()).mul_(scale).half()


def require_known_scales(small: SmallFeatures) -> None:
    """Raise ValueError if the scales are not valid results of `compress`."""
    bits, below = small.scales.view(np.uint32), _BITS_BELOW[small.codes.dtype]
    zeros = bits[:, 1].tobytes()
    # Mostly all regions have one zero point. The bits of numbers from 0 on are in the order of the numbers, and below
    # those of negative numbers and NaN.
    if zeros and zeros == len(bits) * zeros[:4] and np.maximum.reduce(bits[:, 0]) < below.get(zeros[:4], 0):
        return
    limits = _SCALES_BELOW[small.codes.dtype]
    for scale, zero in small.scales.tolist():  # no comparison with NaN is true
        if not 0 <= scale < limits.get(zero, 0):
            raise ValueError("feature_scales contains a scale or a zero point that does not match the features")


def _largest(zero: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Return the value of each region's largest code for a scale of 1, [N]."""
    if dtype == "uint8":
        return np.full(len(zero), _FLOAT8_MAX, np.float32)
    return (zero + np.float32(127)) ** 2


def _int8_codes(shares: NDArray[np.float32], zero: NDArray[np.float32]) -> NDArray[np.int8]:
    roots = np.copysign(np.sqrt(np.abs(shares)), shares)
    return np.rint(roots - zero[:, None]).clip(-128, 127).astype(np.int8)


def _float8_codes(shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    import torch

    return torch.from_numpy(shares).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def _cosines(exact: NDArray[np.float32], read: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of corresponding regions, [N]; 1 if both are zero."""
    dots, squares, others = (
        np.einsum("nd,nd->n", a, b, dtype=np.float64) for a, b in ((exact, read), (exact, exact), (read, read))
    )
    norms = np.sqrt(squares * others)
    return np.where(squares == 0, 1.0, np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0))
