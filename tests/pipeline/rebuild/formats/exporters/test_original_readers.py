"""Exports in the hands of the code that the formats were made for, run unmodified.

READERS_SOURCE names a folder with checkouts of the repositories under their own names (`vilbert_beta`, `mmf`, …); where
it is unset, or a reader needs a package that is not installed, its test is skipped. docs/formats.md says at which
commits they were run. What a file imports and the reader does not use is replaced by empty modules.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from vilbert.extractors.regions import Regions
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample, describe_fields

from .conftest import Write, distribution

WIDTH, HEIGHT, CHANNELS, CLASSES = 640, 480, 2048, 1601
NAMES = ("background", *(f"class {number}" for number in range(1, CLASSES)))
DESCRIPTION = SourceDescription(
    format="vilbert",
    fields=describe_fields(feature_dim=CHANNELS, top_classes=20, attributes=True),
    class_names=NAMES,
    attribute_names=tuple(f"attribute {number}" for number in range(400)),
)


def sample(image_id: str, boxes: int, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (boxes, 2, 2)), axis=1) * [WIDTH, HEIGHT]
    probabilities = -np.sort(-rng.dirichlet(np.full(20, 0.3), boxes), axis=1) * 0.9
    regions = Regions(
        boxes=corners.reshape(boxes, 4).astype(np.float32),
        features=np.maximum(rng.standard_normal((boxes, CHANNELS)), 0).astype(np.float16),
        object_ids=rng.integers(1, CLASSES, boxes).astype(np.uint16),
        object_scores=rng.uniform(0, 1, boxes).astype(np.float32),
        class_ids=np.stack([rng.permutation(CLASSES)[:20] for _ in range(boxes)]).astype(np.uint16),
        class_probs=probabilities.astype(np.float16),
        attribute_ids=rng.integers(0, 400, boxes).astype(np.uint16),
        attribute_scores=rng.uniform(0, 1, boxes).astype(np.float32),
        width=WIDTH,
        height=HEIGHT,
    )
    return Sample(key=image_id, regions=regions, meta={"image_id": image_id, "captions": [f"a caption {seed}"]})


SAMPLES = [sample("391895", 36, 0), sample("522418", 10, 1), sample("184613", 21, 2)]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Return a function that gives the checkout of a repository; modules that a test imports are forgotten again."""

    def find(name: str) -> Path:
        if "READERS_SOURCE" not in os.environ:
            pytest.skip("set READERS_SOURCE to a folder with a checkout of the reader's repository")
        folder = Path(os.environ["READERS_SOURCE"]) / name
        if not folder.is_dir():
            pytest.skip(f"READERS_SOURCE has no {name}")
        return folder

    monkeypatch.setattr(sys, "path", list(sys.path))
    yield find
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(os.environ.get("READERS_SOURCE", "no folder")):
            del sys.modules[name]


@pytest.fixture
def replace_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Return a function that puts a module in the place of one that is not installed."""

    def put(name: str, **attributes: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)


def run_file(path: Path) -> ModuleType:
    """Import one file."""
    spec = importlib.util.spec_from_file_location(f"original_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_location(regions: Regions, locations: Any) -> None:
    """Assert that a reader's rows behind the global one are boxes and areas as fractions of the image."""
    x1, y1, x2, y2 = (regions.boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT]).T
    expected = np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)], axis=1)
    assert np.allclose(locations[0], [0, 0, 1, 1, 1])
    assert np.allclose(locations[1:], expected, atol=1e-6)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    ("repository", "name"), [("vilbert_beta", "vilbert-lmdb"), ("vilbert-multi-task", "vilbert-lmdb-arrays")]
)
def test_vilbert_task_readers(
    repository: str, name: str, in_memory: bool, source: Callable[[str], Path], write: Write
) -> None:
    file = source(repository) / "vilbert/datasets/_image_features_reader.py"
    needs("lmdb", *(["h5py"] if repository == "vilbert_beta" else []))
    reader = run_file(file).ImageFeaturesH5Reader(str(write(name, SAMPLES, DESCRIPTION)), in_memory)
    assert len(reader) == 3
    assert reader.keys() == [b"391895", b"522418", b"184613"]
    for one in SAMPLES:
        features, count, locations, _ = reader[int(one.meta["image_id"])]
        exact = one.regions.features.astype(np.float32)
        assert count == len(one.regions) + 1
        assert np.allclose(features[0], exact.mean(axis=0), atol=1e-5)
        assert np.array_equal(features[1:], exact)
        check_location(one.regions, locations)


@pytest.mark.parametrize("name", ["volta-lmdb"])
def test_volta(name: str, source: Callable[[str], Path], write: Write) -> None:
    config = SimpleNamespace(v_feature_size=CHANNELS, num_locs=5, add_global_imgfeat="first", norm_embeddings=False)
    file = source("volta") / "volta/datasets/_image_features_reader.py"
    reader = run_file(file).ImageFeaturesH5Reader(str(write(name, SAMPLES, DESCRIPTION)), config)
    for one in SAMPLES:
        features, count, locations, _ = reader[one.meta["image_id"]]
        assert count == len(one.regions) + 1
        assert np.array_equal(features[1:], one.regions.features.astype(np.float32))
        check_location(one.regions, locations)


@pytest.mark.parametrize("file", ["lxmert/src/utils.py", "volta/features_extraction/tsv_to_h5.py"])
def test_lxmert(file: str, source: Callable[[str], Path], write: Write) -> None:
    repository, _, inner = file.partition("/")
    needs(*(["h5py"] if repository == "volta" else []))
    path = source(repository) / inner
    rows = run_file(path).load_obj_tsv(str(write("lxmert-tsv", SAMPLES, DESCRIPTION)))
    for one, row in zip(SAMPLES, rows, strict=True):
        regions = one.regions
        sizes = [row[name] for name in ("img_id", "img_w", "img_h", "num_boxes")]
        assert sizes == [one.meta["image_id"], WIDTH, HEIGHT, len(regions)]
        assert np.array_equal(row["features"], regions.features)
        assert np.array_equal(row["boxes"], regions.boxes)
        assert np.array_equal(row["objects_id"] + 1, regions.object_ids)
        assert np.array_equal(row["objects_conf"], regions.object_scores)
        assert np.array_equal(row["attrs_id"], regions.attribute_ids)
        assert np.array_equal(row["attrs_conf"], regions.attribute_scores)


def test_mmf(source: Callable[[str], Path], replace_module: Callable[..., ModuleType], write: Write) -> None:
    folder = source("mmf")
    needs("iopath")
    for name, path in (("mmf", folder / "mmf"), ("mmf.utils", folder / "mmf/utils")):
        replace_module(name, __path__=[str(path)])  # their __init__ import all of MMF
    readers = run_file(folder / "mmf/datasets/databases/readers/feature_readers.py")
    reader = readers.FeatureReader(str(write("mmf-lmdb", SAMPLES, DESCRIPTION)), depth_first=False, max_features=40)
    for one in SAMPLES:
        regions = one.regions
        features, info = reader.read(f"COCO_train2014_{one.meta['image_id']:0>12}.npy")
        assert type(reader.feat_reader) is readers.LMDBFeatureReader
        assert features.shape == (40, CHANNELS)
        assert int(info["max_features"]) == info["num_boxes"] == len(regions)
        assert np.array_equal(features[: len(regions)].numpy(), regions.features.astype(np.float32))
        assert [info["image_width"], info["image_height"]] == [WIDTH, HEIGHT]
        assert np.array_equal(info["bbox"], regions.boxes)
        assert np.array_equal(info["objects"], regions.object_ids)
        assert np.allclose(info["cls_prob"], distribution(regions, CLASSES), atol=1e-6)


@pytest.mark.parametrize("compressed", [False, True])
def test_uniter(
    compressed: bool, source: Callable[[str], Path], replace_module: Callable[..., ModuleType], write: Write
) -> None:
    file = source("UNITER") / "data/data.py"
    needs("msgpack_numpy", "lz4")
    without_horovodrun = mock.Mock(side_effect=ValueError)
    replace_module("horovod", torch=replace_module("horovod.torch", size=without_horovodrun))
    name = "uniter-lmdb-compressed" if compressed else "uniter-lmdb"
    database = run_file(file).DetectFeatLmdb(str(write(name, SAMPLES, DESCRIPTION)), compress=compressed)
    for one in SAMPLES:
        regions = one.regions
        key = f"{one.meta['image_id']}.npz"
        features, boxes = database[key]
        assert np.array_equal(features.numpy(), regions.features.astype(np.float32))
        assert np.allclose(boxes[:, :4].numpy() * [WIDTH, HEIGHT, WIDTH, HEIGHT], regions.boxes, atol=0.5)
        assert np.allclose(
            boxes[:, 4:].numpy() * [WIDTH, HEIGHT], regions.boxes[:, 2:] - regions.boxes[:, :2], atol=0.5
        )
        dump = database.get_dump(key)
        assert np.allclose(dump["soft_labels"], distribution(regions, CLASSES), atol=1e-3)
        assert np.allclose(dump["conf"], regions.object_scores, atol=1e-3)


OSCAR_UNUSED = {
    "oscar.utils.logger": ["setup_logger"],
    "oscar.utils.caption_evaluate": ["evaluate_on_coco_caption", "ScstRewardCriterion"],
    "oscar.utils.cbs": ["ConstraintFilter", "ConstraintBoxesReader", "FiniteStateMachineBuilder"],
    "oscar.modeling.modeling_bert": ["BertForImageCaptioning", "ImageBertForSequenceClassification"],
    "transformers.pytorch_transformers": [
        *("BertTokenizer", "BertConfig", "AdamW", "WarmupLinearSchedule", "WarmupConstantSchedule")
    ],
}


@pytest.fixture
def oscar(
    source: Callable[[str], Path], replace_module: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ModuleType]:
    """Return a function that imports one of Oscar's scripts."""
    folder = source("Oscar")
    sys.path.insert(0, str(folder))
    for name, attributes in OSCAR_UNUSED.items():
        replace_module(name, **dict.fromkeys(attributes))
    load = yaml.load
    monkeypatch.setattr(yaml, "load", lambda file: load(file, yaml.SafeLoader))  # PyYAML before 6 had a default
    return lambda script: run_file(folder / "oscar" / script)


def check_vinvl(regions: Regions, features: Any) -> None:
    assert features.shape == (len(regions), CHANNELS + 6)
    assert np.array_equal(features[:, :CHANNELS], regions.features.astype(np.float32))
    corners, size = features[:, -6:-2] * [WIDTH, HEIGHT, WIDTH, HEIGHT], features[:, -2:] * [WIDTH, HEIGHT]
    assert np.allclose(corners, regions.boxes, atol=1e-3)
    assert np.allclose(size, regions.boxes[:, 2:] - regions.boxes[:, :2], atol=1e-3)


def test_oscar_captioning(oscar: Callable[[str], ModuleType], write: Write) -> None:
    export = write("vinvl-tsv", SAMPLES, DESCRIPTION)
    dataset = oscar("run_captioning.py").CaptionTSVDataset(str(export / "dataset.yaml"), tokenizer=mock.MagicMock())
    assert dataset.image_keys == [one.meta["image_id"] for one in SAMPLES]
    assert len(dataset) == 3
    for number, one in enumerate(SAMPLES):
        check_vinvl(one.regions, dataset.get_image_features(dataset.get_image_index(number)).numpy())
        assert dataset.get_od_labels(number) == " ".join(NAMES[index] for index in one.regions.object_ids)
        assert dataset.get_caption(number) == one.meta["captions"][0]


def test_oscar_retrieval(oscar: Callable[[str], ModuleType], write: Write, tmp_path: Path) -> None:
    export = write("oscar-tsv", SAMPLES, DESCRIPTION)
    captions = {int(one.meta["image_id"]): one.meta["captions"] for one in SAMPLES}
    torch.save(captions, tmp_path / "train_captions.pt")
    arguments = SimpleNamespace(
        img_feat_file=str(export / "features.tsv"),
        data_dir=str(tmp_path),
        add_od_labels=True,
        num_captions_per_img_train=1,
        output_mode="classification",
        max_seq_length=70,
        max_img_seq_length=50,
    )
    dataset = oscar("run_retrieval.py").RetrievalDataset(mock.MagicMock(), arguments, "train", is_train=True)
    for one in SAMPLES:
        image_id = int(one.meta["image_id"])
        check_vinvl(one.regions, dataset.get_image(image_id).numpy())
        labels = dataset.labels[image_id]
        assert (labels["image_w"], labels["image_h"]) == (WIDTH, HEIGHT)
        assert np.array_equal(labels["boxes"], one.regions.boxes)
        assert dataset.get_od_labels(image_id) == " ".join(NAMES[index] for index in one.regions.object_ids)


def test_visualbert(source: Callable[[str], Path], replace_module: Callable[..., ModuleType], write: Write) -> None:
    folder = source("visualbert") / "unsupervised_visualbert"
    needs("h5py")
    sys.path.insert(0, str(folder))
    samples = [sample(str(number), 36, number) for number in range(3)]
    export = write("hdf5", samples, DESCRIPTION, name=f"visualbert-{os.getpid()}")
    path = export / "features.h5"
    path = path.rename(export / f"{os.getpid()}.h5")  # the reader caches arrays by the name of the file
    replace_module("param", args={})
    module = run_file(folder / "src/lxrt/h5_data.py")
    try:
        arrays = module.ImageFeatureDataset.load_custom_h5(str(path))
        names = ("features", "boxes", "object_ids", "object_scores", "attribute_ids", "attribute_scores")
        for name, array in zip(names, arrays, strict=True):
            shift = 1 if name == "object_ids" else 0
            for number, one in enumerate(samples):
                assert np.array_equal(array[number] + shift, getattr(one.regions, name)), name
    finally:
        for cached in Path("/dev/shm").glob(f"sharearray_{os.getpid()}.h5_*"):
            cached.unlink()
    images = json.loads((export / "features.json").read_text())
    assert [image["img_id"] for image in images] == ["0", "1", "2"]


def test_tensorpack_and_the_pretraining_loader(
    source: Callable[[str], Path], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorpack, beta = source("tensorpack"), source("vilbert_beta")
    needs("msgpack_numpy", "tabulate", "termcolor", "zmq")
    monkeypatch.setenv("TENSORPACK_SERIALIZE", "msgpack")
    sys.path.insert(0, str(tensorpack))
    flow = importlib.import_module("tensorpack.dataflow")
    export = write("vilbert-pretraining-lmdb", SAMPLES, DESCRIPTION)
    records = flow.LMDBSerializer.load(str(export / "training_feat_all.lmdb"), shuffle=False)
    records.reset_state()
    assert len(records) == 3
    module = run_file(beta / "vilbert/datasets/concept_cap_dataset.py")
    tokenizer = SimpleNamespace(
        tokenize=str.split, vocab={"[MASK]": 1}, convert_tokens_to_ids=lambda tokens: [7] * len(tokens)
    )
    prepare = module.BertPreprocessBatch(str(export / "caption_train.json"), tokenizer, 12, 36, 3, visualization=True)
    random.seed(0)
    for one, record in zip(SAMPLES, records, strict=True):
        regions = one.regions
        count = len(regions)
        tensors = prepare(record)
        locations, targets, mask = tensors[6], tensors[7], tensors[9]
        check_location(regions, np.insert(locations[:count], 0, [0, 0, 1, 1, 1], axis=0))
        assert np.allclose(targets[:count], distribution(regions, CLASSES), atol=1e-6)
        assert sum(mask) == count
        kept = np.abs(tensors[5][:count]).sum(axis=1) > 0  # the loader zeroes the masked regions
        assert kept.any()
        assert np.array_equal(tensors[5][:count][kept], regions.features.astype(np.float32)[kept])
        assert tensors[10] == one.meta["image_id"]
