"""Tiny detectors of each family against transformers itself: boxes, classes, and the hidden state of each box."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from vilbert.extractors.detectors.transformers.query_extractor import TransformersExtractor
from vilbert.extractors.extractor import DetectorSettings, ExtractorError, ExtractorSettings, build_extractor
from vilbert.extractors.preprocessing import Adjustable
from vilbert.extractors.selection import SelectionSettings

from .tiny_models import CLASSES, CLOSED, OPEN, SOFTMAX, edit_config, save_model

NAMES = ("black cat", "dog", "wooden chair")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes a family's folder, once."""
    return functools.cache(lambda name: save_model(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with three names."""
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    return path


@pytest.fixture(scope="module")
def build(folder_of: Callable[[str], Path], vocabulary: Path) -> Callable[..., Any]:
    """Return a function that builds a family's extractor; without changes once."""

    @functools.cache
    def extractor(name: str, **changes: Any) -> Any:
        detector = DetectorSettings(
            **{
                "detector": "transformers",
                "weights": folder_of(name),
                "device": "cpu",
                "vocabulary": vocabulary if name in OPEN else None,
                **changes,
            }
        )
        return build_extractor(ExtractorSettings(detector=detector, selection=SelectionSettings(boxes="4-10")))

    return extractor


def photographs(count: int, height: int = 60, width: int = 80, seed: int = 0) -> list[NDArray[np.uint8]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (height, width, 3)).astype(np.uint8) for _ in range(count)]


HEADS = {
    "detr": "class_labels_classifier",
    "conditional_detr": "class_labels_classifier",
    "deformable_detr": "class_embed.1",
    "rt_detr_v2": "model.decoder.class_embed.1",
    "d_fine": "model.decoder.class_embed.1",
    "rf_detr": "class_embed",
    "yolos": "class_labels_classifier",
    "grounding_dino": "class_embed.1",
    "owlv2": "class_head",
}
"""The module that turns a query's last hidden state into its classes."""


@pytest.mark.parametrize("name", [*CLOSED, *OPEN])
def test_the_feature_of_a_box_is_what_its_classes_were_computed_from(name: str, build: Callable[..., Any]) -> None:
    extractor = build(name)
    seen: list[torch.Tensor] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append((args[0] if args else kwargs["vision_hidden_state"]).detach()[0])

    hook = extractor._model.get_submodule(HEADS[name]).register_forward_pre_hook(note, with_kwargs=True)
    regions = extractor.extract(photographs(1), [None])[0]
    hook.remove()
    states = seen[-1].numpy().astype(np.float16)
    assert len(regions) >= 4
    assert extractor.feature_dim == regions.features.shape[1] == states.shape[1]
    for feature in regions.features:
        assert (states == feature).all(axis=1).sum() == 1


@pytest.mark.parametrize("name", [*CLOSED, "owlv2"])
def test_boxes_and_objects_are_those_of_the_librarys_own_post_processing(
    name: str, build: Callable[..., Any], folder_of: Callable[[str], Path]
) -> None:
    from transformers import (
        AutoImageProcessor,
        AutoModelForObjectDetection,
        AutoModelForZeroShotObjectDetection,
        AutoTokenizer,
    )

    (image,) = photographs(1)
    processor = AutoImageProcessor.from_pretrained(folder_of(name))
    inputs = processor(images=[image], return_tensors="pt")
    auto: Any = AutoModelForObjectDetection
    if name == "owlv2":
        auto = AutoModelForZeroShotObjectDetection
        tokenizer = AutoTokenizer.from_pretrained(folder_of(name))
        inputs |= tokenizer(list(NAMES), padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    model = auto.from_pretrained(folder_of(name)).eval()
    with torch.inference_mode():
        output = model(**inputs)
    more = {"top_k": 60} if name in ("deformable_detr", "conditional_detr") else {}
    (theirs,) = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[image.shape[:2]], **more)
    boxes = theirs["boxes"].numpy().clip(0, [80, 60, 80, 60])
    ours = build(name).extract([image], [None])[0]
    for box, object_id, score in zip(ours.boxes, ours.object_ids, ours.object_scores, strict=True):
        same = np.abs(boxes - box).max(axis=1) < 1e-3
        same &= theirs["labels"].numpy() == object_id - 1
        assert np.abs(theirs["scores"].numpy()[same] - score).min() < 1e-5


@pytest.mark.parametrize("name", [*CLOSED, *OPEN])
def test_an_image_alone_or_in_a_batch_gives_the_same_regions(name: str, build: Callable[..., Any]) -> None:
    images = photographs(3)
    together = build(name).extract(images, [None] * 3)
    for image, there in zip(images, together, strict=True):
        alone = build(name).extract([image], [None])[0]
        assert alone.boxes == pytest.approx(there.boxes, abs=1e-3)
        assert (alone.object_ids == there.object_ids).all()
        assert alone.features.astype(float) == pytest.approx(there.features.astype(float), abs=4e-3)


@pytest.mark.parametrize("name", [*CLOSED, *OPEN])
def test_images_of_extreme_aspect(name: str, build: Callable[..., Any]) -> None:
    extractor = build(name)
    for height, width in ((3, 700), (700, 3), (1, 1)):
        assert min(extractor.resized_shape(height, width)) >= 32
        regions = extractor.extract(photographs(1, height, width), [None])[0]
        assert len(regions) or name == "owlv2"  # whose queries stand beside the image
        assert (regions.boxes >= 0).all()
        assert (regions.boxes <= [width, height, width, height]).all()


@pytest.mark.parametrize("name", [*CLOSED, *OPEN])
def test_only_a_softmax_gives_soft_labels(name: str, build: Callable[..., Any]) -> None:
    extractor = build(name)
    regions = extractor.extract(photographs(1), [None])[0]
    assert extractor.soft_labels == (name in SOFTMAX) == (regions.class_probs is not None)
    assert len(extractor.class_names) == 1 + (len(NAMES) if name in OPEN else CLASSES)
    if regions.class_probs is not None:
        assert regions.class_probs.sum(axis=1) == pytest.approx(1, abs=2e-3)
        first = np.where(regions.class_ids[:, 0] == 0, regions.class_ids[:, 1], regions.class_ids[:, 0])
        assert (first == regions.object_ids).all()


def test_no_object_becomes_class_0(build: Callable[..., Any]) -> None:
    extractor = build("detr")
    with torch.no_grad():
        bias = extractor._model.class_labels_classifier.bias
        before = bias.clone()
        bias[-1] += 20
        regions = extractor.extract(photographs(1), [None])[0]
        bias.copy_(before)
    assert (regions.class_ids[:, 0] == 0).all()
    assert (regions.class_probs[:, 0] > 0.99).all()


def test_a_name_has_the_score_of_its_best_token(build: Callable[..., Any], folder_of: Callable[[str], Path]) -> None:
    extractor = build("grounding_dino")
    (image,) = photographs(1)
    inputs = extractor._inputs.batch([image], torch.device("cpu"))
    # [CLS] black cat . dog . wooden chair . [SEP]
    text = {"input_ids": torch.tensor([[2, 7, 6, 5, 8, 5, 9, 10, 5, 3]])}
    with torch.inference_mode():
        output = extractor._model(**inputs, **text)
    probs = output.logits.sigmoid()[0]
    scores = torch.stack([probs[:, 1:3].amax(1), probs[:, 4], probs[:, 6:8].amax(1)], dim=1).numpy()
    regions = extractor.extract([image], [None])[0]
    for object_id, score in zip(regions.object_ids, regions.object_scores, strict=True):
        assert np.abs(scores[:, object_id - 1] - score).min() < 1e-6
    assert len(set(regions.object_ids)) > 1


def test_given_boxes_want_an_encoder(build: Callable[..., Any]) -> None:
    with pytest.raises(ExtractorError, match="add --encoder NAME"):
        build("detr").extract(photographs(1), [np.array([[0, 0, 9, 9]], np.float32)])


def test_boxes_stay_float32_in_bfloat16(build: Callable[..., Any]) -> None:
    for name in ("detr", "rt_detr_v2", "grounding_dino", "owlv2"):
        exact = build(name)._family.queries
        extractor = build(name, precision="bf16")
        inputs = extractor._inputs.batch(photographs(1), torch.device("cpu"))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            boxes = exact(extractor._model, inputs, extractor._prompts).boxes
        assert (boxes != boxes.to(torch.bfloat16).float()).float().mean() > 0.5, name


@pytest.mark.parametrize("name", [*CLOSED, "grounding_dino"])
def test_predictors_stay_float32_in_bfloat16(build: Callable[..., Any], name: str) -> None:
    """Those of the first stage too: they compute the boxes that the decoder starts from."""
    extractor = build(name, precision="bf16")
    inputs = extractor._inputs.batch(photographs(1), torch.device("cpu"))
    text = {} if extractor._prompts is None else extractor._prompts.tokens
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = extractor._model(**inputs, **text)
    predicted = {key: value for key, value in output.items() if "logits" in key or "box" in key or "class" in key}
    if name == "rf_detr":  # the library copies them to the type of the encoder's output
        predicted = {key: value for key, value in predicted.items() if not key.startswith("enc_")}
    assert {"logits", "pred_boxes"} <= predicted.keys()
    assert {value.dtype for value in predicted.values() if isinstance(value, torch.Tensor)} == {torch.float32}


def test_the_fingerprint_has_all_that_regions_depend_on(build: Callable[..., Any], tmp_path: Path) -> None:
    facts = build("owlv2").fingerprint()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["vocabulary"] == list(NAMES)
    assert str(tmp_path.parent) not in json.dumps(facts)
    assert len(facts["weights_sha256"]) == 64
    assert facts["preprocessing"]["size"]["height"] == 64
    assert build("owlv2", opts=("prompt", "a {}")).fingerprint() != facts
    assert "predictor_precision" not in facts  # data sets in float32 can be continued
    assert build("owlv2", precision="bf16").fingerprint()["predictor_precision"] == "fp32"


@pytest.fixture
def copy_of(folder_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a family's folder, to be damaged."""
    return lambda name: Path(shutil.copytree(folder_of(name), tmp_path / name))


def refusal(weights: Path | str, **changes: Any) -> str:
    """Return the message with which a folder is refused."""
    detector = DetectorSettings(**{"detector": "transformers", "weights": weights, "device": "cpu", **changes})
    with pytest.raises(ExtractorError) as refused:
        build_extractor(ExtractorSettings(detector=detector))
    return str(refused.value)


def drop_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["class_labels_classifier.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    edit_config(folder, d_model=16)


def poison(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["class_labels_classifier.bias"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_only(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def code_of_its_own(folder: Path) -> None:
    edit_config(folder, model_type="my_detr", auto_map={"AutoModelForObjectDetection": "evil.Detector"})
    (folder / "evil.py").write_text("raise SystemExit('code of a model ran')")


def shards_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"class_labels_classifier.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_layer, "the weights lack class_labels_classifier.weight"),
        (other_shape, "cannot load this detr model"),
        (poison, "NaN or infinity in class_labels_classifier.bias"),
        (pickle_only, "no model.safetensors, only pytorch_model.bin, which is not read"),
        (truncate, "cannot load this detr model"),
        (code_of_its_own, "'my_detr' is not an object detector"),
        (shards_elsewhere, "weight_map must name safetensors files of this folder"),
        (lambda folder: (folder / "config.json").write_text("[" * 9999), "config.json: damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), "has no model_type"),
        (lambda folder: (folder / "config.json").unlink(), "cannot read .*config.json"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{"), "AutoImageProcessor cannot read"),
        (lambda folder: edit_config(folder, transformers_weights="a.safetensors"), "not in model.safetensors alone"),
        (lambda folder: edit_config(folder, model_type="bert"), "'bert' is not an object detector"),
        (lambda folder: edit_config(folder, num_attention_heads="many", d_model=-1), "cannot load this detr model"),
    ],
)
def test_a_damaged_or_hostile_folder_is_refused(
    damage: Callable[[Path], object], said: str, copy_of: Callable[[str], Path]
) -> None:
    folder = copy_of("detr")
    damage(folder)
    message = refusal(folder)
    assert re.search(said, message), message


def test_what_is_no_folder_and_no_hub_name_is_refused(tmp_path: Path) -> None:
    for name in (tmp_path / "nothing" / "here" / "at" / "all", "", " ", "a\0b", "~nobody-of-this-name/model"):
        assert "no such folder, and not a hub name" in refusal(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "has 0 names"),
        (b"\xff\xfe", "not UTF-8"),
        (b"cat\nCat\n", "line 2 repeats 'Cat' of line 1"),
        (b"a\x1b[31m\n", "control characters"),
        (b"u.s. flag\n", "separates names by full stops"),
        (b"dog\n" + b"".join(b"cat " * n + b"\n" for n in range(1, 9)), "this model reads 24"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(
    text: bytes, said: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(text)
    assert said in refusal(folder_of("grounding_dino"), vocabulary=path)


def test_options_that_do_not_fit_the_model_are_refused(folder_of: Callable[[str], Path], vocabulary: Path) -> None:
    assert "give --vocabulary FILE" in refusal(folder_of("owlv2"))
    assert "leave it out" in refusal(folder_of("detr"), vocabulary=vocabulary)
    assert "applies to open-vocabulary models only" in refusal(folder_of("detr"), opts=("prompt", "a {}"))
    assert "has no softmax over its classes" in refusal(folder_of("rt_detr_v2"), top_classes=5)
    with pytest.raises(ValueError, match="needs --weights"):
        DetectorSettings(detector="transformers")
    with pytest.raises(ValueError, match="in place of the name"):
        DetectorSettings(detector="transformers", weights="a", opts=("prompt", "a photo"))
    detector = DetectorSettings(detector="transformers", weights=folder_of("detr"), device="cpu")
    for selection, said in (
        (SelectionSettings(saved_box="regressed"), "a query has one box"),
        (SelectionSettings(selection="maxnms"), "--selection maxnms: a query has no refined box"),
    ):
        with pytest.raises(ExtractorError, match=said):
            build_extractor(ExtractorSettings(detector=detector, selection=selection))


def test_it_is_an_extractor(build: Callable[..., Any]) -> None:
    assert isinstance(build("detr"), TransformersExtractor)
    with pytest.raises(ValueError, match="images of different resized shapes"):
        build("detr").extract([*photographs(1), *photographs(1, 80, 60)], [None, None])


@pytest.mark.parametrize("name", ["detr", "rt_detr_v2", "yolos"])
def test_other_preprocessing_is_that_of_another_image_processor(
    name: str, build: Callable[..., Any], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    extractor = build(name)
    assert isinstance(extractor, Adjustable)
    own = extractor.preprocessing
    (image,) = photographs(1)
    (before,) = extractor.extract([image], [None])
    size = {"height": 96, "width": 96} if own.square else {"shortest_edge": 96, "longest_edge": 160}
    values = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_normalize": True, "size": size}
    other = shutil.copytree(folder_of(name), tmp_path / name)
    path = other / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    (expected,) = build(name, weights=other).extract([image], [None])
    changed = extractor.with_preprocessing(
        replace(own, mean=(127.5, 102, 76.5), std=(51, 76.5, 102), short_side=96, long_side=96 if own.square else 160)
    )
    assert changed.preprocessing.short_side == 96
    (found,) = changed.extract([image], [None])
    np.testing.assert_allclose(found.features, expected.features, atol=2e-3)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    (again,) = extractor.extract([image], [None])
    np.testing.assert_array_equal(again.features, before.features)
    assert not np.allclose(found.features[: len(before)], before.features[: len(found)], atol=0.01)
    padded = extractor.with_preprocessing(replace(own, pad_to=(128, 160)))
    (wider,) = padded.extract([image], [None])
    assert len(wider)
    assert not np.array_equal(wider.features[: len(before)], before.features[: len(wider)])
