"""Every file that a command reads, damaged in every way: a message and exit status 0, 1 or 2, never a traceback.

The files are those of a whole run at a tiny size: a generated data set, its features, a pre-trained model, one
fine-tuned on VQA. Each test damages one kind of file, at places that hypothesis chooses, and runs the commands that
read it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vilbert.pipeline.cli import main

SCENES = "24"
ROW = {"image_id": "1", "uri": "a.jpg", "captions": ["a red square"]}
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 2**70, 1.5, -1e308, "", "x", "\ud83d", "\x00", "../..", "1", [], {}, [[]], {"a": []},
    [None], [1.5, "x"],
)  # fmt: skip


@dataclass(frozen=True)
class Damaged:
    """A kind of file, and the command lines that read it; `{}` stands for the folder of the files."""

    name: str
    file: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


MODEL = "--model shapes --tokenizer shapes --device cpu --num-workers 0 --tracker none --eval-split none"
EXTRACT = "extract {}/m.parquet --output {}/features --detector shapes --backend local --boxes 6 --shard-size 8"
PRETRAIN = f"pretrain {{}}/features --output {{}}/new {MODEL} --init-from none --max-steps 1 --batch-size 2 --split all"
RESUME = f"pretrain {{}}/features --output {{}}/pretrained {MODEL} --init-from none --max-steps 2 --batch-size 2"
FINETUNE = (
    "finetune vqa {}/features --annotations {}/shapes/vqa --init-from {}/pretrained/final --config shapes "
    "--max-steps 1 --batch-size 2 --num-workers 0 --device cpu --tracker none --output {}/new"
)
EVALUATE = "evaluate vqa {}/features --annotations {}/shapes/vqa --checkpoint {}/vqa --num-workers 0 --device cpu"
PREDICT = "predict vqa --checkpoint {}/vqa --image {}/photo.jpg --question what --device cpu"
LOOK = ("verify {}/features --deep", "stats {}/features", "inspect {}/features:0", "inspect {}/features")
READ_FEATURES = (*LOOK, EXTRACT, PRETRAIN)

FILES = (
    Damaged("jsonl", "rows.jsonl", ("manifest {}/rows.jsonl --output {}/o.parquet",)),
    Damaged("csv", "rows.csv", ("manifest {}/rows.csv --output {}/o.parquet",)),
    Damaged("tsv", "rows.tsv", ("manifest {}/rows.tsv --output {}/o.parquet",)),
    Damaged("karpathy", "shapes/karpathy/dataset_coco.json", (
        "manifest {}/shapes/karpathy/dataset_coco.json --images {}/shapes --output {}/o.parquet",
    )),
    Damaged("coco", "shapes/annotations/captions_val2014.json", (
        "manifest {}/shapes/annotations/captions_val2014.json --images {}/shapes --output {}/o.parquet",
    )),
    Damaged("given boxes", "boxes.jsonl", (
        "manifest {}/rows.jsonl --given-boxes {}/boxes.jsonl --output {}/o.parquet",
    )),
    Damaged("excluded ids", "ids.json", ("manifest {}/rows.jsonl --exclude-ids {}/ids.json --output {}/o.parquet",)),
    Damaged("excluded ids npy", "ids.npy", (
        "manifest {}/rows.jsonl --exclude-ids {}/ids.npy --output {}/o.parquet",
    )),
    Damaged("img2dataset tar", "img2dataset/00000.tar", ("manifest {}/img2dataset --output {}/o.parquet",)),
    Damaged("img2dataset parquet", "img2dataset/00000.parquet", ("manifest {}/img2dataset --output {}/o.parquet",)),
    Damaged("img2dataset stats", "img2dataset/00000_stats.json", ("manifest {}/img2dataset --output {}/o.parquet",)),
    Damaged("manifest", "m.parquet", (EXTRACT, "verify {}/features --manifest {}/m.parquet")),
    Damaged("photograph", "photo.jpg", (PREDICT,)),
    Damaged("dataset.json", "features/dataset.json", READ_FEATURES),
    Damaged("record", "features/shards/000000.json", READ_FEATURES),
    Damaged("shard", "features/shards/000000.tar", READ_FEATURES),
    Damaged("failures", "features/failures/000000.jsonl", (*LOOK, EXTRACT)),
    Damaged("notes of what is done", "features/.done.npy", (EXTRACT, "status {}/features")),
    Damaged("run state", "features/.run.json", (EXTRACT, "status {}/features", EXTRACT + " --dry-run")),
    Damaged("lmdb record", "lmdb/shards/000000.json", ("verify {}/lmdb --deep", "inspect {}/lmdb:0")),
    Damaged("config", "config.json", (
        "verify {}/features --config {}/config.json", PREDICT + " --config {}/config.json",
    )),
    Damaged("tasks", "tasks.json", ("finetune multitask --tasks {}/tasks.json --init-from none --output {}/new",)),
    Damaged("run.json", "pretrained/run.json", (RESUME,)),
    Damaged("journal", "pretrained/metrics.jsonl", (RESUME,)),
    Damaged("checkpoint", "pretrained/checkpoints/step-00000001/checkpoint.json", (RESUME,)),
    Damaged("info", "pretrained/checkpoints/step-00000001/info.json", (RESUME,)),
    Damaged("weights of a checkpoint", "pretrained/checkpoints/step-00000001/model.safetensors", (RESUME,)),
    Damaged("optimizer", "pretrained/checkpoints/step-00000001/optimizer.safetensors", (RESUME,)),
    Damaged("pre-trained config", "pretrained/final/config.json", (FINETUNE,)),
    Damaged("pre-trained weights", "pretrained/final/model.safetensors", (FINETUNE,)),
    Damaged("task card", "vqa/final/task.json", (PREDICT, EVALUATE)),
    Damaged("task config", "vqa/final/config.json", (PREDICT, EVALUATE)),
    Damaged("task weights", "vqa/final/model.safetensors", (PREDICT,)),
    Damaged("tokenizer", "vqa/final/tokenizer.json", (PREDICT,)),
    Damaged("tokenizer config", "vqa/final/tokenizer_config.json", (PREDICT,)),
    Damaged("questions", "shapes/vqa/v2_OpenEnded_mscoco_val2014_questions.json", (EVALUATE,)),
    Damaged("answers", "shapes/vqa/v2_mscoco_val2014_annotations.json", (EVALUATE,)),
    Damaged("answer list", "answers.pkl", (FINETUNE + " --answers {}/answers.pkl",)),
    Damaged("published weights", "model.bin", ("convert-checkpoint {}/model.bin --output {}/converted",)),
    Damaged("model config", "config.json", (
        "convert-checkpoint {}/vqa/final/model.safetensors --output {}/converted --model-config {}/config.json",
    )),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of every stage at a tiny size."""
    folder = tmp_path_factory.mktemp("whole")
    write_sources(folder)
    base = (
        f"shapes {{}}/shapes --scenes {SCENES} --seed 3",
        "manifest {}/shapes/karpathy/dataset_coco.json --images {}/shapes --output {}/m.parquet",
        EXTRACT,
        EXTRACT.replace("/features", "/lmdb") + " --format lmdb",
        RESUME.replace("--max-steps 2", "--max-steps 1"),
        FINETUNE.replace("{}/new", "{}/vqa"),
    )
    for command in base:
        assert run(folder, command) == 0, command
    shutil.copy(next((folder / "shapes" / "val2014").iterdir()), folder / "photo.jpg")
    return folder


def write_sources(folder: Path) -> None:
    import pickle

    import torch

    (folder / "rows.jsonl").write_text("\n".join(json.dumps({**ROW, "image_id": str(row)}) for row in range(4)) + "\n")
    (folder / "rows.csv").write_text('image_id,uri,captions\n1,a.jpg,"a, cat"\n2,b.jpg,"[""two"", ""captions""]"\n')
    (folder / "rows.tsv").write_text("a cat\thttp://e.invalid/1.jpg\na dog\thttp://e.invalid/2.jpg\n" * 3)
    (folder / "boxes.jsonl").write_text('{"image_id": "1", "boxes": [[1, 2, 30, 40]]}\n' * 2)
    (folder / "ids.json").write_text('["1", "7"]')
    np.save(folder / "ids.npy", np.array([1, 7]))
    (folder / "config.json").write_text('{"deep": true, "num_workers": 1}')
    (folder / "tasks.json").write_text('{"vqa": {"data": ["features"], "annotations": "shapes/vqa"}}')
    (folder / "answers.pkl").write_bytes(pickle.dumps(["red", "blue", "two"]))
    torch.save({"cls.bias": torch.zeros(3), "bert.pooler.weight": torch.ones(2, 2)}, folder / "model.bin")
    write_img2dataset(folder / "img2dataset")


def write_img2dataset(folder: Path) -> None:
    import io
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(picture, "JPEG")
    keys = ["000000000", "000000001"]
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for key in keys:
            meta = json.dumps({"caption": "a cat", "url": f"http://e.invalid/{key}", "key": key, "status": "success"})
            for suffix, data in (("jpg", picture.getvalue()), ("txt", b"a cat"), ("json", meta.encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    columns = {"key": keys, "status": ["success"] * 2, "url": keys, "caption": ["a cat"] * 2}
    pq.write_table(pa.table(columns), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text('{"count": 2, "successes": 2}')


def run(folder: Path, command: str) -> int:
    """Run a command line in this process; return its exit status. What it raises, the test raises."""
    try:
        return main(command.replace("{}", str(folder)).split())
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Draw a way to damage a file's bytes."""
    kind = draw(st.sampled_from(("value", "value", "key", "cut", "flip", "insert", "whole")))
    at = draw(st.floats(0, 1, exclude_max=True))
    match kind:
        case "value" | "key":
            odd = draw(st.sampled_from(ODD_VALUES))
            return lambda data: edit_json(data, at, odd, delete=kind == "key")
        case "cut":
            return lambda data: data[: int(at * len(data))]
        case "flip":
            bit = draw(st.integers(0, 7))
            return lambda data: flip(data, int(at * len(data)), 1 << bit)
        case "insert":
            junk = draw(st.binary(min_size=1, max_size=40))
            return lambda data: data[: int(at * len(data))] + junk + data[int(at * len(data)) :]
    odd_file = draw(st.sampled_from((b"", b"[]", b"{}", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\x80\x04.")))
    return lambda _data: odd_file


def flip(data: bytes, at: int, mask: int) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[at] ^= mask
    return bytes(changed)


def edit_json(data: bytes, at: float, odd: Any, *, delete: bool) -> bytes:
    """Return JSON, or a line of JSONL, with another value at one of its places; other bytes as they are."""
    lines = [data]
    try:
        json.loads(data)
    except ValueError:
        lines = data.splitlines(keepends=True)
    chosen = min(int(at * len(lines)), len(lines) - 1)
    try:
        document = json.loads(lines[chosen])
    except (ValueError, IndexError):
        return flip(data, int(at * len(data)), 0xFF)
    places = [(document, key) for key in keys_of(document)]
    for holder, key in places:
        places += [(holder[key], inner) for inner in keys_of(holder[key])]
    if not places:
        return json.dumps(odd).encode()
    holder, key = places[int(at * len(places))]
    if delete:
        del holder[key]
    else:
        holder[key] = odd
    lines[chosen] = json.dumps(document).encode() + (b"\n" if lines[chosen].endswith(b"\n") else b"")
    return b"".join(lines)


def keys_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value)))[:3] if isinstance(value, list) else []


SLOW = ("optimizer", "run.json", "info", "weights of a checkpoint", "record")
"""Their siblings, "checkpoint" and "pre-trained config", run in CI."""


def check(whole: Path, folder: Path, damaged: Damaged, damage: Callable[[bytes], bytes]) -> None:
    shutil.copytree(whole, folder)
    path = folder / damaged.file
    path.write_bytes(damage(path.read_bytes()))
    try:
        for command in damaged.commands:
            assert run(folder, command) in (0, 1, 2)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "damaged", [pytest.param(it, marks=pytest.mark.slow) if str(it) in SLOW else it for it in FILES], ids=str
)
@settings(max_examples=2, suppress_health_check=list(HealthCheck), phases=[Phase.generate], derandomize=True)
@given(damage=damages())
def test_a_damaged_file_is_a_message(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, damaged: Damaged, damage: Callable[[bytes], bytes]
):
    check(whole, tmp_path_factory.mktemp("damaged") / "copy", damaged, damage)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", FILES, ids=str)
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(damage=damages())
def test_a_file_damaged_in_many_ways_is_a_message(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, damaged: Damaged, damage: Callable[[bytes], bytes]
):
    check(whole, tmp_path_factory.mktemp("damaged") / "copy", damaged, damage)
