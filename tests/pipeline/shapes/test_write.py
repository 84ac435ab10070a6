import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from vilbert.pipeline.shapes import write
from vilbert.pipeline.shapes.render import jpeg, paint
from vilbert.pipeline.shapes.scene import CLASS_NAMES, make_scene
from vilbert.pipeline.shapes.write import ShapesSettings, write_shapes

SCENES = 40
ANNOTATIONS_DIGEST = "2a38d09516846604d5390b6b20f0afd95b60722405eef4e84bbbbebd1f01355b"
FILES = [
    "annotations/captions_train2014.json",
    "annotations/captions_val2014.json",
    "annotations/image_info_test2015.json",
    "annotations/instances_train2014.json",
    "annotations/instances_val2014.json",
    "conceptual_captions/Train_GCC-training.tsv",
    "conceptual_captions/Validation_GCC-1.1.0-Validation.tsv",
    "karpathy/dataset_coco.json",
    "refer/refcocog/instances.json",
    "refer/refcocog/refs(umd).json",
    "scenes.jsonl",
    "vcr1annots/test.jsonl",
    "vcr1annots/train.jsonl",
    "vcr1annots/val.jsonl",
    "vqa/v2_OpenEnded_mscoco_test2015_questions.json",
    "vqa/v2_OpenEnded_mscoco_train2014_questions.json",
    "vqa/v2_OpenEnded_mscoco_val2014_questions.json",
    "vqa/v2_mscoco_train2014_annotations.json",
    "vqa/v2_mscoco_val2014_annotations.json",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shapes") / "data"
    assert write_shapes(ShapesSettings(output=output, scenes=SCENES, seed=3)) == 0
    return output


@pytest.fixture(scope="module")
def scenes(data: Path) -> list[dict[str, Any]]:
    return lines(data / "scenes.jsonl")


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digest(folder: Path, leave_out: str = "") -> str:
    """Return a hash over the names and bytes of all files but those with the suffix `leave_out`."""
    tree = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != leave_out):
        tree.update(f"{path.relative_to(folder)}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return tree.hexdigest()


def test_files_and_images_are_where_the_published_sets_have_them(data: Path, scenes: list[dict[str, Any]]) -> None:
    found = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    images = {scene["path"] for scene in scenes}
    metadata = {path for path in found if path.startswith("vcr1metadata/")}
    assert found - images - metadata == set(FILES)
    assert len(images) == len(metadata) == SCENES
    assert "train2014/COCO_train2014_000000000001.jpg" in images
    assert "val2014/COCO_val2014_000000000009.jpg" in images
    assert "test2015/COCO_test2015_000000000010.jpg" in images
    assert Counter(scene["split"] for scene in scenes) == {"train": 32, "val": 4, "test": 4}


def test_images_are_the_scenes(data: Path, scenes: list[dict[str, Any]]) -> None:
    for scene in scenes:
        with Image.open(data / scene["path"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (scene["width"], scene["height"]))
            assert image.layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # 4:4:4
            painted = paint(make_scene(3, scene["index"])).astype(int)
            error = abs(painted - image.convert("RGB")).mean()
        assert error < 3


@pytest.mark.parametrize("split", ["train2014", "val2014"])
def test_pycocotools_reads_objects_and_captions(data: Path, scenes: list[dict[str, Any]], split: str) -> None:
    instances = COCO(data / f"annotations/instances_{split}.json")
    captions = COCO(data / f"annotations/captions_{split}.json")
    mine = {scene["image_id"]: scene for scene in scenes if scene["path"].startswith(split)}
    assert set(instances.getImgIds()) == set(captions.getImgIds()) == set(mine)
    assert [instances.cats[number]["name"] for number in sorted(instances.cats)] == list(CLASS_NAMES)
    for image_id, scene in mine.items():
        (image,) = instances.loadImgs(image_id)
        assert (data / split / image["file_name"]).is_file()
        assert (image["width"], image["height"]) == (scene["width"], scene["height"])
        annotations = instances.loadAnns(instances.getAnnIds(image_id))
        assert len(annotations) == len(scene["objects"])
        for annotation, item in zip(annotations, scene["objects"], strict=True):
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == item["box_xyxy"]
            assert instances.annToMask(annotation)[y : y + height, x : x + width].all()
            assert instances.annToMask(annotation).sum() == width * height
            assert instances.cats[annotation["category_id"]]["name"] == item["shape"]
            assert annotation["area"] == item["area"]
        assert len(captions.getAnnIds(image_id)) == 5


def test_keys_of_coco_rows(data: Path) -> None:
    captions, instances = (load(data / f"annotations/{name}_val2014.json") for name in ("captions", "instances"))
    assert set(captions) == {"info", "licenses", "images", "annotations"}
    assert set(captions["annotations"][0]) == {"image_id", "id", "caption"}
    assert set(instances) == {"info", "licenses", "images", "annotations", "categories"}
    image_keys = {"license", "file_name", "coco_url", "height", "width", "date_captured", "flickr_url", "id"}
    assert set(instances["images"][0]) == image_keys
    annotation_keys = {"segmentation", "area", "iscrowd", "image_id", "bbox", "category_id", "id"}
    assert set(instances["annotations"][0]) == annotation_keys
    assert "annotations" not in load(data / "annotations/image_info_test2015.json")


def test_karpathy_holds_every_image_with_the_captions_of_coco(data: Path) -> None:
    karpathy = load(data / "karpathy/dataset_coco.json")
    assert karpathy["dataset"] == "coco"
    assert Counter(image["split"] for image in karpathy["images"]) == {"train": 32, "val": 4, "test": 4}
    published = COCO(data / "annotations/captions_train2014.json")
    sentence_ids = [number for image in karpathy["images"] for number in image["sentids"]]
    assert len(set(sentence_ids)) == len(sentence_ids) == 5 * SCENES
    for image in karpathy["images"]:
        assert set(image) == {"filepath", "sentids", "filename", "imgid", "split", "sentences", "cocoid"}
        assert (data / image["filepath"] / image["filename"]).is_file()
        assert [sentence["sentid"] for sentence in image["sentences"]] == image["sentids"]
        for sentence in image["sentences"]:
            assert sentence["tokens"] == sentence["raw"].lower().replace(",", "").rstrip(".").split()
        if image["split"] == "train":
            rows = published.loadAnns(published.getAnnIds(image["cocoid"]))
            assert [row["caption"] for row in rows] == [sentence["raw"] for sentence in image["sentences"]]


def test_conceptual_captions_have_no_header_and_two_columns(data: Path) -> None:
    for name, count in [("Train_GCC-training.tsv", 32), ("Validation_GCC-1.1.0-Validation.tsv", 4)]:
        rows = [line.split("\t") for line in (data / "conceptual_captions" / name).read_text().splitlines()]
        assert len(rows) == count
        for caption, url in rows:
            assert caption == caption.lower()
            assert url.startswith("https://shapes.invalid/")
            assert (data / url.removeprefix("https://shapes.invalid/")).is_file()


def test_vqa_questions_and_answers_match(data: Path) -> None:
    for subtype in ("train2014", "val2014"):
        questions = load(data / f"vqa/v2_OpenEnded_mscoco_{subtype}_questions.json")
        annotations = load(data / f"vqa/v2_mscoco_{subtype}_annotations.json")
        assert set(questions) == {"info", "license", "data_subtype", "data_type", "task_type", "questions"}
        assert set(annotations) == {"info", "license", "data_subtype", "data_type", "annotations"}
        assert questions["data_subtype"] == annotations["data_subtype"] == subtype
        asked = {row["question_id"]: row["image_id"] for row in questions["questions"]}
        assert len(asked) == len(questions["questions"])
        assert {row["question_id"]: row["image_id"] for row in annotations["annotations"]} == asked
        for row in annotations["annotations"]:
            keys = {"question_type", "multiple_choice_answer", "answers", "image_id", "answer_type", "question_id"}
            assert set(row) == keys
            assert [answer["answer_id"] for answer in row["answers"]] == list(range(1, 11))
            assert row["question_id"] // 1000 == row["image_id"]
    assert load(data / "vqa/v2_OpenEnded_mscoco_test2015_questions.json")["questions"]
    assert not (data / "vqa/v2_mscoco_test2015_annotations.json").exists()


def test_vcr_lines_point_at_objects_and_metadata(data: Path, scenes: list[dict[str, Any]]) -> None:
    by_path = {scene["path"]: scene for scene in scenes}
    ids = []
    for split in ("train", "val", "test"):
        rows = lines(data / f"vcr1annots/{split}.jsonl")  # few scenes have objects to tag
        for row in rows:
            ids.append(row["annot_id"])
            scene, metadata = by_path[row["img_fn"]], load(data / row["metadata_fn"])
            assert row["objects"] == metadata["names"] == [item["shape"] for item in scene["objects"]]
            assert [box[:4] for box in metadata["boxes"]] == [item["box_xyxy"] for item in scene["objects"]]
            assert all(len(box) == 5 for box in metadata["boxes"])
            assert len(metadata["segms"]) == len(metadata["names"])
            assert len(row["answer_choices"]) == len(row["rationale_choices"]) == 4
            tokens = [row["question"], *row["answer_choices"], *row["rationale_choices"]]
            tags = [tag for text in tokens for token in text if isinstance(token, list) for tag in token]
            assert set(tags) <= set(range(len(row["objects"])))
            assert ("answer_label" in row) == ("rationale_orig" in row) == (split != "test")
            if split != "test":
                assert row["answer_match_iter"][row["answer_label"]] == 0
                assert sorted(row["rationale_match_iter"]) == [0, 1, 2, 3]
    assert len(set(ids)) == len(ids)


def test_references_name_annotations_of_their_instances(data: Path) -> None:
    references = load(data / "refer/refcocog/refs(umd).json")
    instances = COCO(data / "refer/refcocog/instances.json")
    assert {reference["split"] for reference in references} == {"train", "val", "test"}
    sentence_ids = []
    for reference in references:
        keys = {"sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences", "category_id"}
        assert set(reference) == keys
        annotation = instances.anns[reference["ann_id"]]
        assert annotation["image_id"] == reference["image_id"]
        assert annotation["category_id"] == reference["category_id"]
        stem = instances.imgs[reference["image_id"]]["file_name"].removesuffix(".jpg")
        assert reference["file_name"] == f"{stem}_{reference['ann_id']}.jpg"  # as published: not the image's file
        assert [sentence["sent_id"] for sentence in reference["sentences"]] == reference["sent_ids"]
        assert all(set(sentence) == {"tokens", "raw", "sent_id", "sent"} for sentence in reference["sentences"])
        sentence_ids += reference["sent_ids"]
    assert len(set(sentence_ids)) == len(sentence_ids)


def test_the_same_seed_gives_the_same_bytes_in_another_process(data: Path, tmp_path: Path) -> None:
    arguments = ["shapes", "elsewhere/again", "--scenes", str(SCENES), "--seed", "3"]
    command = [sys.executable, "-m", "vilbert.pipeline.cli", *arguments]
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert f"{SCENES} scenes" in run.stderr
    assert digest(tmp_path / "elsewhere/again") == digest(data)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["again"]


def test_another_seed_gives_other_scenes_and_more_scenes_begin_with_the_fewer(data: Path, tmp_path: Path) -> None:
    assert write_shapes(ShapesSettings(output=tmp_path / "other", scenes=10, seed=4)) == 0
    assert write_shapes(ShapesSettings(output=tmp_path / "fewer", scenes=10, seed=3)) == 0
    first = [lines(folder / "scenes.jsonl")[:10] for folder in (data, tmp_path / "fewer", tmp_path / "other")]
    assert first[0] == first[1]
    assert all(mine["objects"] != other["objects"] for mine, other in zip(first[0], first[2], strict=True))
    name = "train2014/COCO_train2014_000000000001.jpg"
    assert (data / name).read_bytes() == (tmp_path / "fewer" / name).read_bytes()


def test_golden_annotations(data: Path) -> None:
    """All files but the JPEGs are fixed: a change here is a change of the data set, and goes into the CHANGELOG."""
    assert digest(data, leave_out=".jpg") == ANNOTATIONS_DIGEST


def test_a_failed_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_at(monkeypatch, OSError("No space left on device"))
    assert write_shapes(ShapesSettings(output=tmp_path / "data", scenes=10)) == 1
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_what_was_there(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "data"
    assert write_shapes(ShapesSettings(output=output, scenes=10, seed=1)) == 0
    before = digest(output)
    fail_at(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_shapes(ShapesSettings(output=output, scenes=10, seed=2, overwrite=True))
    assert digest(output) == before
    assert list(tmp_path.iterdir()) == [output]


def test_a_killed_run_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    """SIGKILL in the middle: what is there is hidden and never taken for a data set; the next run is not disturbed."""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "vilbert.pipeline.cli", "shapes", "data", "--scenes", "100000"]
    run = subprocess.Popen(command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not list(tmp_path.glob(".data.unfinished-*/train2014/*5.jpg")):
            time.sleep(0.02)
    finally:
        run.kill()
        run.wait()
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name == f".data.unfinished-{run.pid}"
    assert_ends(f"parent_pid={run.pid},")  # the command line of the processes that drew with it
    assert not (unfinished / "annotations/captions_train2014.json").exists()
    assert write_shapes(ShapesSettings(output=tmp_path / "data", scenes=10)) == 0


def test_scenes_are_the_same_whether_drawn_by_one_process_or_by_many(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(write, "SCENES_IN_MEMORY", SCENES // 2 + 1)
    assert write_shapes(ShapesSettings(output=tmp_path / "data", scenes=SCENES, seed=3)) == 0
    assert digest(tmp_path / "data") == digest(data)


def assert_ends(part_of_a_command_line: str) -> None:
    """Wait until no process has this in its command line."""
    for _ in range(200):
        if not any(part_of_a_command_line in command_line(process) for process in Path("/proc").glob("[0-9]*")):
            return
        time.sleep(0.05)
    pytest.fail(f"a process with {part_of_a_command_line} goes on")


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def fail_at(monkeypatch: pytest.MonkeyPatch, error: BaseException, index: int = 6) -> None:
    """Let the picture of one scene fail, after others were written."""

    def fail(scene: Any) -> bytes:
        if scene.index == index:
            raise error
        return jpeg(scene)

    monkeypatch.setattr(write, "jpeg", fail)


def test_a_folder_in_use_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = tmp_path / "data"
    output.mkdir()
    assert write_shapes(ShapesSettings(output=output, scenes=10, seed=1)) == 0  # an empty folder is as good as none
    before = digest(output)
    assert write_shapes(ShapesSettings(output=output, scenes=10, seed=2)) == 2
    assert "--overwrite" in caplog.text
    assert digest(output) == before
    assert write_shapes(ShapesSettings(output=output, scenes=10, seed=2, overwrite=True)) == 0
    assert digest(output) != before
    assert list(tmp_path.iterdir()) == [output]


def test_what_is_not_a_shapes_data_set_is_never_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert write_shapes(ShapesSettings(output=tmp_path, scenes=10, overwrite=True)) == 2
    assert "something else" in caplog.text
    assert write_shapes(ShapesSettings(output=tmp_path / "thesis.tex", scenes=10, overwrite=True)) == 2
    assert "is a file" in caplog.text
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("option", "settings"),
    [("--scenes 9", {"scenes": 9}), ("--scenes 10000001", {"scenes": 10_000_001}), ("--seed -1", {"seed": -1})],
)
def test_settings_out_of_range_are_refused(option: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=option):
        ShapesSettings(output=Path("data"), **settings)
