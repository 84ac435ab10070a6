"""Load published checkpoints into a ViLBERT, report what was loaded, and write files in the published layout.

    report = load_checkpoint(ViLBertForTasks(config), "pytorch_model_19.bin")
    print(report)

Files are read without running code from them (`vilbert.model.tensor_files`); names are mapped by
`vilbert.model.layouts`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel

from vilbert.interrupts import delayed_interrupts
from vilbert.model.architecture import describe, differences, is_of_a_head, is_of_layers
from vilbert.model.config import ViLBertConfig
from vilbert.model.layouts import Layout, detect_layout, is_head, is_known, is_unread, to_ours
from vilbert.model.load_report import LoadReport, shape, some
from vilbert.model.tensor_files import CheckpointError, read_torch_file
from vilbert.untrusted.documents import read_json
from vilbert.untrusted.tar_archives import ArchiveError, is_tar, open_tar

__all__ = ["CheckpointError", "LoadReport", "load_checkpoint", "read_state_dict", "save_reference"]

# Files to search for in a folder or an archive; the first that exists is read.
FILE_NAMES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.ckpt")
# Where training checkpoints keep the state dict: vilbert-multi-task, VOLTA; MMF; MMF's zoo; lightning.
_ENTRIES = ("model_state_dict", "model", "checkpoint", "state_dict")
# Errors that safetensors raises for damaged content, besides its own.
_DAMAGE = (ValueError, KeyError, AttributeError, TypeError, RuntimeError, OverflowError)
_HEADS_REMEDY = "skip_mismatched_heads leaves heads of another size as they are"
_CONFIG_REMEDY = "make the model with the configuration of the checkpoint, its config.json (--model-config)"
_DECODER, _WORDS = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by their names in the file, on the CPU.

    Args:
        path: A file of torch.save (`.bin`, `.tar`, `.pth`, `.ckpt`), of which only the model's state dict is returned;
            a `.safetensors` file; or a `.tar` or `.tar.gz` archive or a folder that contains one of `FILE_NAMES`.

    Raises:
        CheckpointError: The checkpoint is damaged or has no state dict.
        OSError: The file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        try:
            with delayed_interrupts():
                return dict(safetensors.torch.load_file(path))
        except (safetensors.SafetensorError, *_DAMAGE) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise CheckpointError(
                f"{path}: is not a safetensors file, or damaged: {reason}; download it again"
            ) from error
    with path.open("rb") as file:
        if not file.read(1):
            raise CheckpointError(f"{path}: is empty; download it again")
    return _read_archive(path) if is_tar(path) else _state_dict_in(read_torch_file(path), path)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return read_state_dict(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = _files_of(index)
            return {key: value for file in files for key, value in read_state_dict(folder / file).items()}
    raise CheckpointError(f"{folder}: contains none of {', '.join(FILE_NAMES)}; give the path of the file")


def _files_of(index: Path) -> list[str]:
    """Return the file names in an index of weights. The files are in the same folder."""
    try:
        files = set(read_json(index)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: is not an index of weights ({error!r}); download it again") from error
    beside = {path.name for path in index.parent.iterdir() if path.is_file()}
    for file in files - beside:
        raise CheckpointError(
            f"{index}: names {str(file)[:80]!r}, which is not a file in its folder; download the folder again"
        )
    return sorted(files)


def _read_archive(path: Path) -> dict[str, Tensor]:
    """Read the weights file in an archive. Only this member is extracted, under a fixed name."""
    try:
        with open_tar(path) as archive, tempfile.TemporaryDirectory() as scratch:
            for member in archive:
                name = Path(member.name).name
                if name not in FILE_NAMES or not member.isreg():
                    continue
                if member.issparse():  # a few bytes can expand to any size that its header states
                    raise CheckpointError(
                        f"{path}: {name} in the archive is sparse; unpack the archive and give the path of the file"
                    )
                content = archive.extractfile(member)
                if content is not None:
                    target = Path(scratch) / name
                    with target.open("wb") as file:
                        while chunk := content.read(1 << 24):
                            file.write(chunk)
                    # Copy before the temporary folder is deleted: safetensors maps the file.
                    return {key: tensor.clone() for key, tensor in read_state_dict(target).items()}
    except ArchiveError as error:
        raise CheckpointError(f"{path}: the archive is damaged: {error}; download it again") from error
    raise CheckpointError(
        f"{path}: the archive contains none of {', '.join(FILE_NAMES)}; unpack it and give the path of the file"
    )


def _state_dict_in(found: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a file: the content itself, or an entry of a training checkpoint."""
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{path}: holds a {type(found).__name__}, not a dict of tensors; save model.state_dict() where it was "
            "created"
        )
    if found and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        return dict(found)
    for entry in _ENTRIES:
        if isinstance(found.get(entry), Mapping):
            return _state_dict_in(found[entry], path)
    names = [str(name) for name in found]
    raise CheckpointError(f"{path}: has no state dict under any of {', '.join(_ENTRIES)}; it holds: {some(names)}")


def _own_names(model: PreTrainedModel) -> dict[str, str]:
    """Return a model's state-dict names by their names in files, where backbone parameters begin with `bert.`."""
    prefix = "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
    return {f"{prefix}{name}": name for name in model.state_dict()}


def load_checkpoint(
    model: PreTrainedModel,
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    layout: Layout | None = None,
    allow_missing: bool = False,
    allow_unexpected: bool = False,
    skip_mismatched_heads: bool = False,
) -> LoadReport:
    """Load a checkpoint into a model, in place.

    Args:
        model: A ViLBERT model.
        source: A file or folder (see docs/checkpoints.md), or a state dict.
        layout: The layout of its parameter names; detected by default.
        allow_missing: Keep the values of backbone parameters that the checkpoint does not have.
        allow_unexpected: Ignore parameters whose names belong to no layout.
        skip_mismatched_heads: Keep the values of heads whose shapes differ.

    Returns:
        A report of loaded, missing, unused and skipped parameters. Missing heads are not an error.

    Raises:
        CheckpointError: The checkpoint is damaged or does not fit; the model is unchanged.
    """
    state = dict(source) if isinstance(source, Mapping) else read_state_dict(source)
    layout = layout or detect_layout(state)
    ids = model.config
    names = to_ours(state, layout, t_biattention_id=ids.t_biattention_id, v_biattention_id=ids.v_biattention_id)
    known = {ours: state[theirs] for theirs, ours in names.items() if ours is not None}
    unused = tuple(theirs for theirs, ours in names.items() if ours is None)
    report = check_tensors(
        model,
        known,
        layout=layout,
        unused=unused,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
        skip_mismatched_heads=skip_mismatched_heads,
    )
    copy_tensors(model, known, report)
    return report


def copy_tensors(model: PreTrainedModel, tensors: Mapping[str, Tensor], report: LoadReport) -> None:
    """Copy the tensors that a report of `check_tensors` lists as loaded into a model."""
    own, state = _own_names(model), model.state_dict()
    with torch.no_grad():
        for name in report.loaded:
            state[own[name]].copy_(tensors[name])


def check_tensors(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    *,
    layout: str,
    unused: tuple[str, ...] = (),
    allow_missing: bool = False,
    allow_unexpected: bool = False,
    skip_mismatched_heads: bool = False,
) -> LoadReport:
    """Return the report of what `copy_tensors` will load from tensors with our names.

    The model may be on the meta device. The rules and errors are those of `load_checkpoint`.
    """
    own, state = _own_names(model), model.state_dict()
    tensors, expected = dict(tensors), set(own)
    if _DECODER in own and model.config.tie_word_embeddings:
        expected.discard(_DECODER)
        _take_decoder(tensors)
    mismatched = tuple(
        (name, tuple(tensor.shape), tuple(state[own[name]].shape))
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != state[own[name]].shape
    )
    wrong = {name for name, _, _ in mismatched}
    absent = sorted(expected - set(tensors))
    report = LoadReport(
        layout=layout,
        loaded=tuple(name for name in own if name in expected and name in tensors and name not in wrong),
        missing=tuple(name for name in absent if not is_unread(name)),
        unread=tuple(name for name in absent if is_unread(name)),
        unexpected=tuple(sorted(name for name in tensors if name not in own and not is_known(name))),
        mismatched=mismatched,
        unused=tuple(sorted([*unused, *(name for name in tensors if name not in own and is_known(name))])),
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = [
        one
        for one in differences(cast(ViLBertConfig, model.config), shapes)
        if (one.parameter in own or not one.parameter)
        and not (is_of_a_head(one) and skip_mismatched_heads)
        and not (is_of_layers(one) and (allow_unexpected if one.file > one.config else allow_missing))
    ]
    if sizes:
        remedy = _HEADS_REMEDY if all(map(is_of_a_head, sizes)) else _CONFIG_REMEDY
        raise CheckpointError(f"the checkpoint ({layout} layout) does not fit: {describe(sizes)}; {remedy}")
    _refuse(report, allow_missing, allow_unexpected, skip_mismatched_heads)
    refuse_non_finite({name: tensors[name] for name in report.loaded}, f"the checkpoint ({layout} layout)")
    return report


def _take_decoder(tensors: dict[str, Tensor]) -> None:
    """Remove the decoder from a checkpoint, because it duplicates the tied word embeddings."""
    decoder = tensors.pop(_DECODER, None)
    words = tensors.get(_WORDS)
    if decoder is not None and words is not None and not torch.equal(decoder, words):
        raise CheckpointError(
            f"{_DECODER} is not {_WORDS} in this checkpoint: create the model with tie_word_embeddings=False to keep "
            "both"
        )


def _refuse(report: LoadReport, allow_missing: bool, allow_unexpected: bool, skip_mismatched_heads: bool) -> None:
    """Raise CheckpointError for problems in a report that are not allowed."""
    problems = []
    backbone = [name for name in report.missing if not is_head(name)]
    if backbone and not allow_missing:
        problems.append(
            f"it lacks {len(backbone):,} parameters of the backbone: {some(backbone)}; allow_missing keeps them"
        )
    if report.unexpected and not allow_unexpected:
        count = len(report.unexpected)
        problems.append(
            f"{count:,} names are in no layout of ViLBERT: {some(report.unexpected)}; allow_unexpected drops them"
        )
    wrong = [row for row in report.mismatched if not (skip_mismatched_heads and is_head(row[0]))]
    if wrong:
        shown = some([f"{name} {shape(theirs)}, not {shape(ours)}" for name, theirs, ours in wrong])
        remedy = _HEADS_REMEDY if all(is_head(row[0]) for row in wrong) else _CONFIG_REMEDY
        problems.append(f"{len(wrong):,} shapes differ: {shown}; {remedy}")
    if problems:
        raise CheckpointError(f"the checkpoint ({report.layout} layout) does not fit: " + ". Also ".join(problems))


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def refuse_non_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError for tensors that are not finite floating-point numbers; `what` names their source."""
    other = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in FLOATS]
    if other:
        raise CheckpointError(f"{what}: holds parameters that are not floating-point numbers: {some(other)}")
    damaged = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if damaged:
        tensors_hold = "1 tensor holds" if len(damaged) == 1 else f"{len(damaged):,} tensors hold"
        raise CheckpointError(
            f"{what}: {tensors_hold} NaN or infinity: {some(damaged)}; its training had failed when it was saved: use "
            "an earlier checkpoint"
        )


def save_reference(model: PreTrainedModel, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters in the published layout: backbone names begin with `bert.`, tied decoder included.

    Args:
        model: A ViLBERT model.
        path: A `.safetensors` file, or any other name for a plain dict of tensors in a file of torch.save. An existing
            file is replaced atomically.
    """
    path, state = Path(path), model.state_dict()
    tensors = {name: state[own].detach().cpu().contiguous() for name, own in _own_names(model).items()}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".safetensors":  # safetensors refuses tensors that share memory
            if _DECODER in tensors:
                tensors[_DECODER] = tensors[_DECODER].clone()
            scratch.touch()
            mode = scratch.stat().st_mode
            safetensors.torch.save_file(tensors, scratch, metadata={"format": "pt"})
            scratch.chmod(mode)  # the temporary file is readable by its owner only
        else:
            torch.save(tensors, scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
