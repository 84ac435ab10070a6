"""detectron2's YAML config files, read safely and held to the models that `detectron2_frcnn` knows.

detectron2's own reader falls back to a YAML that runs code, and fetches a `_BASE_` from the network. Here every file of
the chain is local and plain YAML, or the config is refused.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vilbert.extractors.extractor import ExtractorError
from vilbert.untrusted.documents import DocumentError, read_yaml

logger = logging.getLogger(__name__)

INSTALL = (
    "It is not on the package index: pip install 'vilbert-pipeline[detectron2]' brings what it imports; then clone "
    "https://github.com/facebookresearch/detectron2 and put the folder on PYTHONPATH (there is nothing to compile), or "
    "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
)
# What yacs, its assertions and detectron2's registries raise of a config that is wrong.
CONFIG_ERRORS = (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError)

# The parts of a stock Faster R-CNN that we drive one by one, so that another part would be passed over in silence.
_KNOWN: dict[str, tuple[object, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.ROI_HEADS.NAME": ("Res5ROIHeads", "StandardROIHeads"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlign", "ROIAlignV2", "ROIPool"),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "INPUT.FORMAT": ("BGR", "RGB"),
}
# Of other models, why a box has no feature of its own there.
_REASONS = {
    "RetinaNet": "RetinaNet classifies anchors on the feature map and pools no regions, so no feature belongs to a box",
    "FCOS": "FCOS classifies points of the feature map and pools no regions, so no feature belongs to a box",
    "SemanticSegmentor": "a semantic segmentation has no boxes",
    "PanopticFPN": "use the Mask R-CNN config of the same backbone, whose mask head is left out",
    "ProposalNetwork": "an RPN alone has proposals without classes",
}
_HEADS = {"MASK_ON": "mask", "KEYPOINT_ON": "keypoint"}
_OFF = ["MODEL.MASK_ON", "False", "MODEL.KEYPOINT_ON", "False", "MODEL.LOAD_PROPOSALS", "False"]
_INPUT_KEYS = ("FORMAT", "MAX_SIZE_TEST", "MIN_SIZE_TEST")


def require_detectron2() -> None:
    """Import detectron2, or raise ExtractorError that says how to install it."""
    try:
        with warnings.catch_warnings():
            # torch tells of the scripting that detectron2 does at import, which is not the user's to change.
            warnings.simplefilter("ignore", FutureWarning)
            import detectron2.config
            import detectron2.modeling  # noqa: F401
    except ImportError as error:
        raise ExtractorError(f"--detector detectron2: cannot import detectron2 ({error}). {INSTALL}") from error


def load_config(config_file: str, opts: Sequence[str]) -> Any:
    """Return detectron2's defaults with the file's values and then `opts` (KEY VALUE ...) over them, frozen.

    Mask and keypoint heads are left out, which is logged: they have no part in a region's box, classes and feature.
    Raises ExtractorError where a file
    is missing, remote or not plain YAML, a key is unknown, or the model is not a Faster R-CNN of stock parts.
    """
    from detectron2.config import get_cfg

    _check_files(Path(config_file), ())
    config = get_cfg()
    try:
        config.merge_from_file(config_file, allow_unsafe=False)
    except CONFIG_ERRORS as error:
        raise ExtractorError(f"--config-file {config_file}: {error}") from error
    try:
        config.merge_from_list(list(opts))
    except CONFIG_ERRORS as error:
        raise ExtractorError(f"--opts {' '.join(opts)}: {error}") from error
    for key, head in _HEADS.items():
        if config.MODEL[key]:
            logger.info(
                "--config-file %s: its %s head is left out: a region has box, classes and feature", config_file, head
            )
    config.merge_from_list(_OFF)
    _check_model(config_file, config)
    config.freeze()
    return config


def config_values(config: Any) -> dict[str, object]:
    """Return, as JSON values, what of a config decides the regions and their names; no paths and no device."""
    model = {key: value for key, value in _plain(config.MODEL).items() if key not in ("DEVICE", "WEIGHTS")}
    inputs = {key: value for key, value in _plain(config.INPUT).items() if key in _INPUT_KEYS}
    return {"MODEL": model, "INPUT": inputs, "DATASETS": {"TRAIN": list(config.DATASETS.TRAIN)}}


def class_names(config: Any) -> tuple[str, ...]:
    """Return the names by class id, background first, from detectron2's catalogue of the training set."""
    from detectron2.data import MetadataCatalog

    count = config.MODEL.ROI_HEADS.NUM_CLASSES
    dataset = next(iter(config.DATASETS.TRAIN), None)
    # `get` would register an unknown name.
    known = MetadataCatalog.get(dataset).get("thing_classes", ()) if dataset in MetadataCatalog.list() else ()
    if len(known) == count:
        return ("__background__", *known)
    logger.warning(
        "no names for the %d classes: detectron2 has none for DATASETS.TRAIN %s; they are called class_1, class_2, ...",
        count,
        list(config.DATASETS.TRAIN),
    )
    return ("__background__", *(f"class_{number}" for number in range(1, count + 1)))


def _check_files(path: Path, above: tuple[Path, ...]) -> None:
    """See that a config file and all that it is based on are local plain YAML."""
    if path in above:
        raise ExtractorError(f"{path}: is based on itself through _BASE_")
    if path.suffix == ".py":
        raise ExtractorError(
            f"{path}: Python configs are not executed; use the model's .yaml config, which "
            "detectron2 has for all models of COCO-Detection"
        )
    try:
        values = read_yaml(path)
    except OSError as error:
        named = f"{path} (the _BASE_ of {above[-1]})" if above else f"--config-file {path}"
        raise ExtractorError(f"{named}: cannot read it: {error.strerror}") from error
    except DocumentError as error:
        raise ExtractorError(f"{path}: not plain YAML: {error}") from error
    if not isinstance(values, dict):
        raise ExtractorError(f"{path}: not a config file: expected keys and values")
    bases = values.get("_BASE_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if "://" in base:
            raise ExtractorError(f"{path}: _BASE_ {base}: is not a local file; download it and give its path there")
        _check_files(Path(os.path.normpath(path.parent / Path(base).expanduser())), (*above, path))


def _check_model(config_file: str, config: Any) -> None:
    expected = dict(_KNOWN)
    if config.MODEL.ROI_HEADS.NAME == "StandardROIHeads":
        expected["MODEL.ROI_BOX_HEAD.NAME"] = ("FastRCNNConvFCHead",)
    for key, values in expected.items():
        value = config
        for part in key.split("."):
            value = value[part]
        if value not in values:
            raise ExtractorError(
                f"--config-file {config_file}: {key} is {value!r}; the detectron2 extractor supports Faster R-CNN "
                "models "
                f"of stock parts, where it is {' or '.join(map(repr, values))}{_reason(value)}"
            )


def _reason(value: object) -> str:
    """Return why a model of this META_ARCHITECTURE cannot be used, and what to do instead, to end a message with."""
    if value not in _REASONS:
        return ""
    return (
        f". {_REASONS[str(value)]}. Take a config of COCO-Detection/faster_rcnn_* with its weights, or pool features "
        "of boxes that you give with --detector vit"
    )


def _plain(value: Any) -> Any:
    """Return nested config nodes and tuples as dicts and lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
