"""The names that published checkpoints give to a ViLBERT's parameters, mapped to ours and back.

Ours are those of vilbert_beta and vilbert-multi-task ("reference"), with `bert.` before the backbone. A map is a plain
dict from the names in a file to ours; None if the model has no parameter for a known one. `inverse` turns it around.
Nothing here touches a tensor.
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
# MMF, and the prefixes it had before.
_MMF = re.compile(r"(?:model|bert)\.(bert|cls|classifier)\.")
_HEADS = re.compile(
    r"(cls|vil_prediction|vil_prediction_gqa|vil_logit|vil_binary_prediction|vil_tri_prediction|vision_logit|linguisic_logit"
    r"|classifier|clfs_dict)\."
)
# Known, and without a parameter of their own: a buffer, BERT's pooler and its next-sentence head, other task heads.
_NO_PLACE = re.compile(
    r"bert\.embeddings\.position_ids$|bert\.pooler\.|cls\.(seq_relationship|predictions\.decoder\.bias$)|classifier\.|clfs_dict\."
    r"|cls\.imagePredictions\.decoder_dict\."
)
_VOLTA_SUBLAYER = re.compile(
    r"bert\.encoder\.layer\.(\d+)\.(attention_self|attention_output|intermediate|output)\.(.+)"
)

# A sublayer of VOLTA holds the text's modules and, with `v_` before their names, the image's. Of each stream: what
# those are in ours, by what the sublayer does there.
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
    """Return the names in a co-attention layer: side 1 is the image, 2 the text."""
    return {
        "attention_self.query": f"biattention.query{side}",
        "attention_self.key": f"biattention.key{side}",
        "attention_self.value": f"biattention.value{side}",
        "attention_output.dense": f"biOutput.dense{side}",
        "attention_output.LayerNorm": f"biOutput.LayerNorm{side}",
        **{theirs: f"{stream}_{ours}" for theirs, ours in _FEED_FORWARD.items()},
    }


def clean(name: str) -> str:
    """Return a name without `module.`, with today's spelling of LayerNorms and the old one of weight norms."""
    name = name.removeprefix("module.")
    for pattern, spelling in _SPELLINGS:
        name = pattern.sub(spelling, name)
    return name


def detect_layout(names: Iterable[str]) -> Layout:
    """Return whose names these are."""
    cleaned = [clean(name) for name in names]
    if any(_VOLTA_SUBLAYER.match(with_prefix(name)) and ".attention_self." in name for name in cleaned):
        return "volta"
    return "mmf" if any(_MMF.match(name) for name in cleaned) else "reference"


def with_prefix(name: str) -> str:
    """Return a name with `bert.` where it is of a backbone that was saved alone."""
    return f"bert.{name}" if _BACKBONE.match(name) else name


def is_head(name: str) -> bool:
    """Return whether a name of ours is outside the backbone."""
    return not name.startswith("bert.")


def is_known(name: str) -> bool:
    """Return whether a name of the reference's is of a head that some published model has."""
    return _HEADS.match(name) is not None


def is_unread(name: str) -> bool:
    """Return whether no computation reads a parameter of ours: the reference declares two layers it never calls."""
    return re.search(r"\.biOutput\.q_dense[12]\.", name) is not None


def to_ours(
    names: Iterable[str], layout: Layout, *, t_biattention_id: Sequence[int], v_biattention_id: Sequence[int]
) -> NameMap:
    """Map the names in a file to ours; None for those that no parameter of ours stands for.

    The places of the co-attention layers say which sublayer of VOLTA is which; the other layouts do not need them.
    Raises CheckpointError if two names mean the same parameter, or where VOLTA's sublayers are not those of this
    model.
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
    """Map our names back to a file's; raises CheckpointError if two of the file's mean one of ours."""
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
    """Return what the modules of VOLTA's sublayers are in ours: by number and stream ("" text, "v_" image).

    VOLTA numbers sublayers through both streams. In each stream their order is that of our layers, with co-attention
    layer k before layer `biattention_id[k]`, so counting those that a stream takes part in finds every layer.
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
    """Return for each sublayer of a stream whether it is a co-attention layer, and its number among ours."""
    places: list[tuple[bool, int]] = []
    for layer in range(sublayers - len(ids)):
        places += [(True, connection) for connection, before in enumerate(ids) if before == layer]
        places.append((False, layer))
    return places


def _from_volta(name: str, sublayers: Mapping[tuple[int, str], Mapping[str, str]]) -> str:
    """Return our name of a parameter of VOLTA's; what is in no sublayer of this model stays as it is."""
    name = name.replace("cls.imagePredictions.decoder_dict.0.", "cls.imagePredictions.decoder.")
    if (match := _VOLTA_SUBLAYER.match(name)) is None:
        return name
    number, part, rest = match.groups()
    module, _, suffix = rest.rpartition(".")
    stream = "v_" if module.startswith("v_") else ""
    ours = sublayers.get((int(number), stream), {}).get(f"{part}.{module.removeprefix('v_')}")
    return name if ours is None else f"{ours}.{suffix}"


def inferred_settings(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the settings that the shapes of parameters, under our names, say for certain: which heads, and sizes."""
    shapes = {name: shape for name, shape in shapes.items() if len(shape)}  # a damaged one says nothing
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
