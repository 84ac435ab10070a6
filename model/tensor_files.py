"""Read the tensors of a torch file, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vilbert.untrusted.pickles import PickleError
from vilbert.untrusted.torch_files import read_torch_file as read_untrusted


class CheckpointError(Exception):
    """A checkpoint that cannot be read or does not match the model. The message says what, where and what to do."""


def read_torch_file(path: Path) -> Any:
    """Return the content of a file of `torch.save`, with tensors on the CPU and placeholders for other objects.

    Raises:
        CheckpointError: The file is damaged or not a torch file.
        OSError: The file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return read_untrusted(file)
    except PickleError as error:
        raise CheckpointError(
            f"{path}: cannot be read as a file of torch.save: {error}; download it again, or save its state dict as "
            "safetensors where it was created"
        ) from error
