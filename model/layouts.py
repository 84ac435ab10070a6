"""Map parameter names of published ViLBERT checkpoints to ours and back.

Ours are those of vilbert_beta and vilbert-multi-task ("reference"), with `bert.` before backbone names. A map is a
dict from names in a file to ours, or to None if the model has no such parameter. `inverse` inverts it. This module
reads no tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from vilbert.model.tensor_files import CheckpointError

Layout = Literal["reference", "mmf", "volta"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
NameMap = dict[str, str | None]

_SPELLINGS = (
    (re.compile(r"\.gamma$"), ".weight"),
    (re.compile(r"\.beta$"), ".bias"),
    (re.compile(r"\.parametrizations\.weight\.original0$"), ".weight_g"),
    (re.compile(r"\.parametrizations\.weight\.original1$"), ".weight_v"),
)
_BACKBONE = re.compile(r"(embeddings|v_embeddings|encoder|t_pooler|v_pooler|pooler)\.")
# MMF, with its current and earlier prefixes.
_MMF = re.compile(r"(?:model|bert)\.(bert|cls|classifier)\.")
_HEADS = re.compile(
    r"(cls|vil_prediction|vil_prediction_gqa|vil_logit|vil_binary_prediction|vil_tri_prediction|vision_logit|linguisic_logit"
    r"|classifier|clfs_dict)\."
)
# Known names without a parameter here: a buffer, BERT's pooler and next-sentence head, other task heads.
_NO_PLACE = re.compile(
    r"bert\.embeddings\.position_ids$|bert\.pooler\.|cls\.(seq_relationship|predictions\.decoder\.bias$)|classifier\.|clfs_dict\."
    r"|cls\.imagePredictions\.decoder_dict\."
)
_VOLTA_SUBLAYER = re.compile(
    r"bert\.encoder\.layer\.(\d+)\.(attention_self|attention_output|intermediate|output)\.(.+)"
)

# A sublayer of VOLTA holds the modules of the text and, with the prefix `v_`, those of the image. For each kind of
# sublayer: our names of its modules in one stream.
_SELF_ATTENTION = {
    "attention_self.query": "attention.self.query",
    "attention_self.key": "attention.self.key",
    "attention_self.value": "attention.self.value",
    "attention_output.dense": "attention.output.dense",
    "attention_output.LayerNorm": "attention.output.LayerNorm",
}
_FEED_FORWARD = {
    "intermediate.dense": "intermediate.dense",
    "output.dense": "output.dense",
    "output.LayerNorm": "output.LayerNorm",
}


def _co_attention(side: int, stream: str) -> dict[str, str]:
    """Return the names in a co-attention layer; side 1 is the image, 2 the text."""
    return {
        "attention_self.query": f"biattention.query{side}",
        "attention_self.key": f"biattention.key{side}",
        "attention_self.value": f"biattention.value{side}",
        "attention_output.dense": f"biOutput.dense{side}",
        "attention_output.LayerNorm": f"biOutput.LayerNorm{side}",
        **{theirs: f"{stream}_{ours}" for theirs, ours in _FEED_FORWARD.items()},
    }


def clean(name: str) -> str:
    """Return a name without `module.`, with the current names of LayerNorms and the old ones of weight norms."""
    name = name.removeprefix("module.")
    for pattern, spelling in _SPELLINGS:
        name = pattern.sub(spelling, name)
    return name


def detect_layout(names: Iterable[str]) -> Layout:
    """Return the layout of these names."""
    cleaned = [clean(name) for name in names]
    if any(_VOLTA_SUBLAYER.match(with_prefix(name)) and ".attention_self." in name for name in cleaned):
        return "volta"
    return "mmf" if any(_MMF.match(name) for name in cleaned) else "reference"


def with_prefix(name: str) -> str:
    """Add `bert.` to the name of a backbone parameter that was saved without heads."""
    return f"bert.{name}" if _BACKBONE.match(name) else name


def is_head(name: str) -> bool:
    """Return whether a name of ours is outside the backbone."""
    return not name.startswith("bert.")


def is_known(name: str) -> bool:
    """Return whether a reference name belongs to a head of any published model."""
    return _HEADS.match(name) is not None


def is_unread(name: str) -> bool:
    """Return whether a parameter is unused: the reference declares two layers that it never calls."""
    return re.search(r"\.biOutput\.q_dense[12]\.", name) is not None


def to_ours(
    names: Iterable[str], layout: Layout, *, t_biattention_id: Sequence[int], v_biattention_id: Sequence[int]
) -> NameMap:
    """Map the names in a file to ours, or to None if there is no such parameter.

    Args:
        names: Names in the file.
        layout: Their layout.
        t_biattention_id: Text layers that follow the co-attention layers; used only to identify VOLTA's sublayers.
        v_biattention_id: The same for visual layers.

    Raises:
        CheckpointError: Two names map to the same parameter, or VOLTA's sublayers do not match this model.
    """
    cleaned = {name: clean(name) for name in names}
    if layout == "mmf":
        cleaned = {
            name: _MMF.sub(r"\1.", ours, count=1) if _MMF.match(ours) else ours for name, ours in cleaned.items()
        }
    prefixed = {name: with_prefix(ours) for name, ours in cleaned.items()}
    if layout == "volta":
        sublayers = volta_sublayers(prefixed.values(), t_biattention_id, v_biattention_id)
        prefixed = {name: _from_volta(ours, sublayers) for name, ours in prefixed.items()}
    if "cls.predictions.bias" not in prefixed.values():
        # transformers may have saved the same bias under its other name
        other = "cls.predictions.decoder.bias"
        prefixed = {name: "cls.predictions.bias" if ours == other else ours for name, ours in prefixed.items()}
    mapped: NameMap = {name: None if _NO_PLACE.match(ours) else ours for name, ours in prefixed.items()}
    inverse(mapped)
    return mapped


def inverse(mapped: Mapping[str, str | None]) -> dict[str, str]:
    """Map our names back to those of a file. Raise CheckpointError if two names of the file map to the same one."""
    back: dict[str, str] = {}
    for theirs, ours in mapped.items():
        if ours is None:
            continue
        if ours in back:
            raise CheckpointError(f"both {back[ours]} and {theirs} mean {ours}: delete one of them from the checkpoint")
        back[ours] = theirs
    return back


def volta_sublayers(
    names: Iterable[str], t_biattention_id: Sequence[int], v_biattention_id: Sequence[int]
) -> dict[tuple[int, str], dict[str, str]]:
    """Return our names of the modules in VOLTA's sublayers, by number and stream ("" text, "v_" image).

    VOLTA numbers sublayers across both streams. Within each stream they have the order of our layers, with co-attention
    layer k before layer `biattention_id[k]`, so counting the sublayers of a stream identifies every layer.
    """
    parts = {match.groups() for name in names if (match := _VOLTA_SUBLAYER.match(name))}
    found: dict[tuple[int, str], dict[str, str]] = {}
    for stream, side, layer, ids in (("", 2, "layer", t_biattention_id), ("v_", 1, "v_layer", v_biattention_id)):
        for kind, modules in (("attention_self", _SELF_ATTENTION), ("intermediate", _FEED_FORWARD)):
            module = f"{stream}query.weight" if kind == "attention_self" else f"{stream}dense.weight"
            numbers = sorted({int(number) for number, part, rest in parts if part == kind and rest == module})
            if len(numbers) - len(ids) <= max(ids):
                raise CheckpointError(
                    f"VOLTA's {'image' if stream else 'text'} stream has {len(numbers)} sublayers of {kind}: too few "
                    f"for co-attention before layers {list(ids)}; give the config of the model that was saved"
                )
            places = _places(len(numbers), ids)
            for number, (is_connection, place) in zip(numbers, places, strict=True):
                ours = _co_attention(side, stream.rstrip("_") or "t") if is_connection else modules
                where = f"bert.encoder.{'c_layer' if is_connection else layer}.{place}"
                found[number, stream] = {theirs: f"{where}.{name}" for theirs, name in ours.items()}
    return found


def _places(sublayers: int, ids: Sequence[int]) -> list[tuple[bool, int]]:
    """Return for each sublayer of a stream whether it is a co-attention layer, and its index among our layers."""
    places: list[tuple[bool, int]] = []
    for layer in range(sublayers - len(ids)):
        places += [(True, connection) for connection, before in enumerate(ids) if before == layer]
        places.append((False, layer))
    return places


def _from_volta(name: str, sublayers: Mapping[tuple[int, str], Mapping[str, str]]) -> str:
    """Return our name of a VOLTA parameter. Names outside the sublayers of this model are unchanged."""
    name = name.replace("cls.imagePredictions.decoder_dict.0.", "cls.imagePredictions.decoder.")
    if (match := _VOLTA_SUBLAYER.match(name)) is None:
        return name
    number, part, rest = match.groups()
    module, _, suffix = rest.rpartition(".")
    stream = "v_" if module.startswith("v_") else ""
    ours = sublayers.get((int(number), stream), {}).get(f"{part}.{module.removeprefix('v_')}")
    return name if ours is None else f"{ours}.{suffix}"


def inferred_settings(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the settings that the shapes of parameters (by our names) determine: heads and sizes."""
    shapes = {name: shape for name, shape in shapes.items() if len(shape)}  # ignore damaged ones
    settings: dict[str, Any] = {}
    beta, multitask = "vil_prediction.main.3.bias", "vil_prediction.logit_fc.3.bias"
    if beta in shapes or multitask in shapes:
        settings["task_heads"] = "beta" if beta in shapes else "multitask"
        settings["num_answers"] = shapes[beta if beta in shapes else multitask][0]
    sizes = {
        "num_gqa_answers": "vil_prediction_gqa.logit_fc.3.bias",
        "v_target_size": "cls.imagePredictions.decoder.bias",
        "num_task_tokens": "bert.embeddings.task_embeddings.weight",
    }
    settings |= {setting: shapes[name][0] for setting, name in sizes.items() if name in shapes}
    if "num_task_tokens" in settings:
        settings["task_specific_tokens"] = True
    if any(".dyLinear_q." in name for name in shapes):
        settings["dynamic_attention"] = True
    return settings
