"""Tensors out of a file of torch, with an error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vilbert.untrusted.pickles import PickleError
from vilbert.untrusted.torch_files import read_torch_file as read_untrusted


class CheckpointError(Exception):
    """A checkpoint that cannot be read, or that does not fit the model; says what, where and what to do."""


def read_torch_file(path: Path) -> Any:
    """Return what a file of `torch.save` holds, tensors on the CPU; objects that are not plain data are placeholders.

    Raises CheckpointError if the file is damaged or none of torch's, OSError if it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return read_untrusted(file)
    except PickleError as error:
        raise CheckpointError(
            f"{path}: cannot be read as a file of torch.save: {error}; download it again, or save its state dict as "
            "safetensors where it was created"
        ) from error
