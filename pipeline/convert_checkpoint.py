"""`vilbert convert-checkpoint`: convert a published ViLBERT to the layout of this project or of the reference."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from vilbert.pipeline.errors import OutputError, RefusedError
from vilbert.pipeline.shards.storage.atomic import give_usual_mode
from vilbert.settings import validated

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from vilbert.model.config import ViLBertConfig

DEFAULT_PRESET = "bert_base_6layer_6conect"


@validated
class ConvertCheckpointSettings:
    """Convert a checkpoint of vilbert_beta, vilbert-multi-task, MMF, VOLTA or this project; report every parameter.

    No code in the file is executed. The model has the heads of the file.
    """

    source: Positional[Path]
    """A .bin, .tar, .pth, .ckpt or .safetensors, a .tar.gz of one, or a folder."""
    output: Path
    """Folder to write to; new or empty."""
    model_config: str | None = None
    """Name of a published configuration, or a config.json. Default: SOURCE/config.json if it exists, else
    bert_base_6layer_6conect. Heads and their sizes are read from the weights."""
    to: Literal["ours", "reference"] = "ours"
    """ours: what from_pretrained reads. reference: pytorch_model.bin with the published names."""
    layout: Literal["reference", "mmf", "volta"] | None = None
    """Layout of the parameter names; default: detected."""
    task_heads: Literal["beta", "multitask"] | None = None
    """Design of the task heads, if the file does not determine it."""
    allow_missing: bool = False
    """Initialise backbone parameters that are missing in the file randomly."""
    allow_unexpected: bool = False
    """Drop tensors with unknown names."""
    skip_mismatched_heads: bool = False
    """Initialise heads of another size randomly."""
    seed: int = 0
    """Seed for newly initialised parameters."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        """Reject an output that is the source or inside it."""
        if self.output.resolve() == self.source.resolve():
            raise ValueError(f"--output {self.output} is the source: give another folder")
        if self.source.is_dir() and self.source.resolve() in self.output.resolve().parents:
            raise ValueError(f"--output {self.output} is inside the source: give a folder outside it")


def base_settings(settings: ConvertCheckpointSettings) -> ViLBertConfig:
    """Return the configuration for the backbone, before heads are inferred from the weights.

    Raises:
        RefusedError: `--model-config` is neither a preset nor a valid config.json.
    """
    from vilbert.model.config import PRESETS, preset
    from vilbert.model.config_file import make_config, read_settings

    beside = settings.source / "config.json"
    named = settings.model_config or (str(beside) if beside.is_file() else DEFAULT_PRESET)
    if named in PRESETS:
        return preset(named)
    try:
        return make_config(read_settings(Path(named)))
    except (OSError, ValueError) as error:
        names = ", ".join(PRESETS)
        raise RefusedError(
            f"--model-config {named}: is not a valid configuration ({error}); give a config.json, or one of {names}"
        ) from error


def build_model(config: ViLBertConfig, names: set[str], seed: int) -> PreTrainedModel:
    """Return a randomly initialised model with the heads to which the given parameter names belong.

    Args:
        config: The configuration of the model.
        names: Parameter names of the state dict in this project's layout.
        seed: Seed for the initialisation; the global generator is not changed.
    """
    import torch

    from vilbert.model.tasks import ViLBertForTasks
    from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

    kinds = {name.partition(".")[0] for name in names}
    heads = ViLBertForPreTraining if "cls" in kinds else ViLBertModel
    model_class: type[PreTrainedModel] = ViLBertForTasks if kinds - {"bert", "cls"} else heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config)


def read_model(settings: ConvertCheckpointSettings, state: dict[str, Tensor]) -> tuple[PreTrainedModel, Any]:
    """Build the model that matches a state dict, load it, and return the model and the load report.

    Raises:
        RefusedError: The heads or the size do not match the configuration.
        CheckpointError: The checkpoint is damaged or parameters do not match.
    """
    from vilbert.model.checkpoint import load_checkpoint
    from vilbert.model.config_file import SETTINGS, ConfigError, make_config, require_memory
    from vilbert.model.layouts import detect_layout, inferred_settings, is_known, to_ours

    base = base_settings(settings)
    ids = {"t_biattention_id": base.t_biattention_id, "v_biattention_id": base.v_biattention_id}
    layout = settings.layout or detect_layout(state)
    mapped = to_ours(state, layout, **ids)
    shapes = {ours: tuple(state[theirs].shape) for theirs, ours in mapped.items() if ours is not None}
    changes = ({"task_heads": settings.task_heads} if settings.task_heads else {}) | inferred_settings(shapes)
    try:
        config = make_config({**{name: getattr(base, name) for name in SETTINGS}, **changes})
    except ConfigError as error:
        raise RefusedError(f"the heads of {settings.source} do not match the configuration: {error}") from error
    names = {name for name in shapes if name.startswith("bert.") or is_known(name)}
    try:
        require_memory(config)
    except ConfigError as error:
        raise RefusedError(f"the configuration of {settings.source} {error}; give another --model-config") from error
    model = build_model(config, names, settings.seed)
    report = load_checkpoint(
        model,
        state,
        layout=layout,
        allow_missing=settings.allow_missing,
        allow_unexpected=settings.allow_unexpected,
        skip_mismatched_heads=settings.skip_mismatched_heads,
    )
    return model, report


def write_model(model: PreTrainedModel, output: Path, to: str) -> None:
    """Write a model atomically, in the layout of `save_pretrained` (`ours`) or in that of the reference."""
    from vilbert.model.checkpoint import save_reference
    from vilbert.model.config import ViLBertConfig

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        written = Path(scratch) / output.name
        written.mkdir()
        if to == "ours":
            model.save_pretrained(written)
        else:
            values = {name: getattr(model.config, name) for name in ViLBertConfig.__annotations__}
            values["model"] = values.pop("text_model")
            save_reference(model, written / "pytorch_model.bin")
            (written / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        give_usual_mode(written)
        written.replace(output)  # atomic; an existing empty folder is replaced


def convert_checkpoint(settings: ConvertCheckpointSettings) -> int:
    """Convert a checkpoint, print the report and return the exit status.

    The status is 1, and nothing is written, if the checkpoint is damaged or its parameters do not match.

    Raises:
        RefusedError: The source does not exist or does not match the configuration.
        OutputError: The output exists and is not empty.
    """
    from vilbert.model.checkpoint import CheckpointError, read_state_dict

    if not settings.source.exists():
        raise RefusedError(f"{settings.source}: no such file or folder")
    if settings.output.exists() and (not settings.output.is_dir() or any(settings.output.iterdir())):
        raise OutputError(f"--output {settings.output}: exists and is not empty; give a new folder")
    try:
        model, report = read_model(settings, read_state_dict(settings.source))
    except CheckpointError as error:
        print(f"vilbert convert-checkpoint: {error}", file=sys.stderr)
        return 1
    write_model(model, settings.output, settings.to)
    kind = type(model).__name__
    if settings.json:
        document = {"output": str(settings.output), "model": kind, "form": settings.to, **dataclasses.asdict(report)}
        print(json.dumps(document, indent=2))
    else:
        print(f"{report}\nwrote {kind} to {settings.output} ({settings.to})")
    return 0
