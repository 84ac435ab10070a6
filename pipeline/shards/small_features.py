"""Features in one byte a value: int8 on a scale of squares, or float8, each with a scale per region.

A code c stands for scale * (c + zero) * |c + zero| where the codes are int8, and for scale * c where they are float8
(uint8 on the disk, for no .npy file names float8). Squares place more codes near 0, where most of the values of a
detector lie: on published features (coco10), evenly spaced int8 codes reach a cosine of 0.9999 for 1 % of the regions,
squares for all. A region without negative values has the zero point 128, so that it uses all 256 codes; else it is 0.

Shapes: N regions, D feature channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

STORED_AS = {"float16": "float16", "float32": "float32", "int8": "int8", "float8_e4m3fn": "uint8"}
"""dtype of the stored array, by the name that `--feature-dtype` has for it."""
LEAST_COSINE = {"int8": 0.9999, "uint8": 0.999}
"""Between a region's feature in float16 and what is read again, at least; by the dtype of the codes."""
_FLOAT16_LIMIT = 65520.0  # rounds to infinity
_FLOAT8_MAX = 448.0
_ZERO = 128.0  # added to the codes of a region without negative values
_SCALES_BELOW = {
    np.dtype(np.int8): {0.0: _FLOAT16_LIMIT / 127**2, _ZERO: _FLOAT16_LIMIT / 255**2},
    np.dtype(np.uint8): {0.0: _FLOAT16_LIMIT / _FLOAT8_MAX},
}
"""By the dtype of the codes and the zero point, the scale that makes the largest code too large for float16."""
_BITS_BELOW = {
    dtype: {np.float32(zero).tobytes(): int(np.float32(scale).view(np.uint32)) for zero, scale in limits.items()}
    for dtype, limits in _SCALES_BELOW.items()
}
"""The same as the bytes and bits of float32."""
CODES = tuple(_SCALES_BELOW)
"""The dtypes of codes."""


class PrecisionError(ValueError):
    """Features that one byte a value cannot hold as precisely as `LEAST_COSINE` states."""


class SmallFeatures(NamedTuple):
    """Features of one image as they are stored."""

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
    """Return features in one byte a value.

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
            f"{dtype.replace('uint8', 'float8')} holds the feature of region {region} with a cosine of "
            f"{cosines[region]:.6f} to the exact one, at least {LEAST_COSINE[dtype]} is required"
        )
    return small


def expand(small: SmallFeatures) -> NDArray[np.float16]:
    """Return features as float16 [N, D], read-only."""
    import torch  # NumPy rounds to float16 twenty times slower

    features: NDArray[np.float16] = expand_codes(*(torch.from_numpy(part.copy()) for part in small)).numpy()
    features.flags.writeable = False
    return features


def expand_codes(codes: Tensor, scales: Tensor) -> Tensor:
    """Return features as float16 [..., N, D], computed on the device of the codes; the same bits on each device.

    The product of two codes is exact in float32. One multiplication and the conversion to float16 round.

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
    """Raise ValueError where the scales are not such as `compress` makes them."""
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
    """Return what the largest code of each region stands for where the scale is 1, [N]."""
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
    """Return the cosine of each region with itself, [N]; 1 where both are zero."""
    dots, squares, others = (
        np.einsum("nd,nd->n", a, b, dtype=np.float64) for a, b in ((exact, read), (exact, exact), (read, read))
    )
    norms = np.sqrt(squares * others)
    return np.where(squares == 0, 1.0, np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0))
