"""Asking a model about photographs gives what evaluating stored features gives, whatever is asked beside it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.predict.asking import Row, paired
from vilbert.pipeline.predict.photographs import Detected
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings
from vilbert.pipeline.tasks.refer.files import read_refer

from .tiny_predictor import OPTIONS, load, write_features, write_model, write_scenes

QUESTIONS = ["what colour is the ring", "is the small star left of the circle", "a red heart"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with scenes in shapes/ and their regions in features/."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "shapes")
    write_features(folder / "shapes", folder / "features")
    return folder


@pytest.fixture(scope="module")
def photographs(scenes: Path) -> list[Path]:
    return sorted((scenes / "shapes" / "train2014").glob("*.jpg"))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Predictor]:
    """Return what loads a tiny model of a task, once."""
    found: dict[str, Predictor] = {}

    def get(task: str) -> Predictor:
        if task not in found:
            found[task] = load(write_model(tmp_path_factory.mktemp(task), task))
        return found[task]

    return get


def in_batches_of(predictor: Predictor, size: int) -> Predictor:
    return replace(predictor, reader=replace(predictor.reader, batch_size=size))


def evaluate(scenes: Path, run: Path, task: str, annotations: str, *more: str) -> Any:
    results = scenes / f"{task}.json"
    arguments = [
        "evaluate", task, str(scenes / "features"), "--checkpoint", str(run), "--split", "train",
        "--annotations", str(scenes / "shapes" / annotations), "--output", str(results), "--num-workers", "0",
        "--device", "cpu", *more,
    ]  # fmt: skip
    assert main(arguments) == 0
    return json.loads(results.read_text())


def photograph(scenes: Path, image_id: object) -> Path:
    return scenes / "shapes" / "train2014" / f"COCO_train2014_{int(str(image_id)):012}.jpg"


@pytest.mark.slow
def test_a_fresh_process_points_where_an_evaluation_of_stored_features_does(scenes: Path, tmp_path: Path) -> None:
    run = write_model(tmp_path / "run", "refcocog")
    annotations = "refer/refcocog"
    rows = {row["sent_id"]: row for row in evaluate(scenes, run, "refcocog", annotations)}
    expressions = read_refer(scenes / "shapes" / annotations, "train")
    images = [str(photograph(scenes, it.image_id)) for it in expressions]
    command = [
        sys.executable, "-m", "vilbert.pipeline.cli", "predict", "refcocog", "--checkpoint", str(run), "--json",
        "--image", *images, "--phrase", *[it.text for it in expressions], *OPTIONS,
    ]  # fmt: skip
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert [row["region"] for row in said] == [rows[it.sent_id]["target"] for it in expressions]
    assert np.allclose([row["box_xyxy"] for row in said], [rows[it.sent_id]["box"] for it in expressions], atol=1e-2)
    assert len({row["region"] for row in said}) > 1


def test_answers_are_those_of_an_evaluation(
    scenes: Path, tmp_path: Path, predictor: Callable[[str], Predictor]
) -> None:
    asked = json.loads((scenes / "shapes/vqa/v2_OpenEnded_mscoco_train2014_questions.json").read_text())["questions"]
    run = write_model(tmp_path / "run", "vqa")
    expected = {row["question_id"]: row["answer"] for row in evaluate(scenes, run, "vqa", "vqa")}
    found = predictor("vqa").answer(
        [photograph(scenes, row["image_id"]) for row in asked], [row["question"] for row in asked], top=1
    )
    assert [answers[0].answer for answers in found] == [expected[row["question_id"]] for row in asked]
    assert len(set(expected.values())) > 1


def test_captions_are_those_of_an_evaluation(
    scenes: Path, tmp_path: Path, predictor: Callable[[str], Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What scores them takes seconds and says nothing here.
    monkeypatch.setattr("vilbert.pipeline.evaluate.captioning.caption_scores", lambda truths, written: {})
    run = write_model(tmp_path / "run", "captioning")
    rows = evaluate(scenes, run, "captioning", "karpathy", "--method", "greedy")
    settings = GenerationSettings(method="greedy")
    found = predictor("captioning").describe([photograph(scenes, row["image_id"]) for row in rows], settings)
    assert found == [row["caption"] for row in rows]
    assert len(set(found)) > 1


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(
    photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    together = predictor("vqa").answer(photographs[:3], QUESTIONS)
    for at, question in enumerate(QUESTIONS):
        (alone,) = predictor("vqa").answer([photographs[at]], [question])
        assert [it.answer for it in alone] == [it.answer for it in together[at]]
        assert np.allclose([it.probability for it in alone], [it.probability for it in together[at]], atol=1e-5)


def test_a_place_does_not_depend_on_what_is_asked_beside_it(
    photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    together = predictor("refcocog").point(photographs[:3], QUESTIONS)
    apart = in_batches_of(predictor("refcocog"), 1).point(photographs[:3], QUESTIONS)
    assert [it.region for it in apart] == [it.region for it in together]
    assert np.allclose([it.score for it in apart], [it.score for it in together], atol=1e-5)


def test_ranks_are_those_of_every_pair_by_itself(
    photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    asked = predictor("retrieval")
    scores = in_batches_of(asked, 3).rank(photographs, QUESTIONS)
    assert scores.shape == (3, len(photographs))
    for caption, text in enumerate(QUESTIONS):
        for image, path in enumerate(photographs[:4]):
            (batch,) = asked.reader.batches([path], [[Row(0, (text,))]], "vil_logit")
            assert batch.output.vil_logit is not None
            assert abs(float(batch.output.vil_logit) - scores[caption, image]) < 2e-5


def test_options_are_compared_within_their_question(
    photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    options = [["a red ring", "the star"], ["left", "right", "a large object"]]
    asked = predictor("vcr-qa")
    together = asked.choose(photographs[:2], QUESTIONS[:2], options)
    assert [len(chances) for chances in together] == [2, 3]
    assert np.allclose([sum(chances) for chances in together], 1)
    (second,) = asked.choose([photographs[1]], [QUESTIONS[1]], [options[1]])
    assert np.allclose(second, together[1], atol=1e-5)
    with pytest.raises(RefusedError, match="1 answers: vcr-qa takes 0"):
        asked.choose(photographs[:1], QUESTIONS[:1], options[:1], answers=["the star"])


def test_reasons_are_chosen_for_an_answer(photographs: list[Path], predictor: Callable[[str], Predictor]) -> None:
    asked = predictor("vcr-qar")
    reasons = ["a red ring", "the star", "left of it"]
    (chances,) = asked.choose(photographs[:1], QUESTIONS[:1], [reasons], answers=["a circle"])
    items = [[Row(0, (QUESTIONS[0], "a circle", reason)) for reason in reasons]]
    (batch,) = asked.reader.batches(photographs[:1], items, "vil_logit")
    assert batch.output.vil_logit is not None
    assert np.allclose(chances, batch.output.vil_logit[:, 0].softmax(0), atol=1e-6)
    (others,) = asked.choose(photographs[:1], QUESTIONS[:1], [reasons], answers=["a star"])
    assert not np.allclose(chances, others, atol=1e-6)
    with pytest.raises(RefusedError, match="0 answers: vcr-qar takes 1 for 1"):
        asked.choose(photographs[:1], QUESTIONS[:1], [reasons])


def test_statements_are_judged_as_an_evaluation_does(
    scenes: Path, tmp_path: Path, photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    # NLVR2's images are named by their set, so the scenes are copied under such names and extracted again.
    folder, statements = tmp_path / "nlvr2", []
    folder.mkdir()
    couples = list(zip(photographs[::2], photographs[1::2], strict=False))
    for pair, couple in enumerate(couples):
        for side, photograph in enumerate(couple):
            shutil.copy(photograph, folder / f"train-1-{pair}-img{side}.jpg")
        statements += [
            {"identifier": f"train-1-{pair}-{number}", "sentence": text, "label": "True"}
            for number, text in enumerate(QUESTIONS)
        ]
    (tmp_path / "train.json").write_text("".join(f"{json.dumps(row)}\n" for row in statements))
    manifest, features, results = tmp_path / "nlvr2.parquet", tmp_path / "features", tmp_path / "results.csv"
    assert main(["manifest", str(folder), "--output", str(manifest)]) == 0
    assert main(["extract", str(manifest), "--output", str(features), "--backend", "local", *OPTIONS]) == 0
    arguments = [
        "evaluate", "nlvr2", str(features), "--checkpoint", str(write_model(tmp_path / "run", "nlvr2")), "--split",
        "train", "--annotations", str(tmp_path), "--output", str(results), "--num-workers", "0", "--device", "cpu",
    ]  # fmt: skip
    assert main(arguments) == 0
    expected = dict(line.split(",") for line in results.read_text().splitlines())
    asked = [(couple, pair, number) for pair, couple in enumerate(couples) for number in range(len(QUESTIONS))]
    found = in_batches_of(predictor("nlvr2"), 2).judge(
        [couple for couple, _, _ in asked], [QUESTIONS[number] for _, _, number in asked]
    )
    assert [str(it > 0.5) for it in found] == [expected[f"train-1-{pair}-{number}"] for _, pair, number in asked]
    assert len(set(expected.values())) == 2


def test_a_statement_is_as_probable_as_half_of_what_is_between_true_and_false(
    photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    asked = predictor("nlvr2")
    (chance,) = asked.judge([(photographs[0], photographs[1])], QUESTIONS[:1])
    items = [[Row(side, (QUESTIONS[0],)) for side in (0, 1)]]
    (batch,) = asked.reader.batches(photographs[:2], items, "vil_binary_prediction")
    assert batch.output.vil_binary_prediction is not None
    ((false, true),) = batch.output.vil_binary_prediction.tolist()
    assert abs(true - false) > 1e-2  # else half of it would be as good as all of it
    assert chance == pytest.approx(1 / (1 + math.exp((false - true) / 2)), abs=1e-6)


def test_which_photograph_is_left_matters(photographs: list[Path], predictor: Callable[[str], Predictor]) -> None:
    left, right = photographs[:2]
    there, back = predictor("nlvr2").judge([(left, right), (right, left)], QUESTIONS[:1])
    assert abs(there - back) > 1e-4
    with pytest.raises(RefusedError, match="2 pairs of images and 3 statements"):
        predictor("nlvr2").judge([(left, right)] * 2, QUESTIONS)


def test_nucleus_captions_are_the_same_in_any_batch(
    photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    settings = GenerationSettings(method="nucleus", seed=5, max_tokens=6)
    together = predictor("captioning").describe(photographs[:4], settings)
    assert in_batches_of(predictor("captioning"), 1).describe(photographs[:4], settings) == together


def test_pixels_are_what_their_file_is(photographs: list[Path], predictor: Callable[[str], Predictor]) -> None:
    pixels = np.asarray(Image.open(photographs[0]).convert("RGB"))
    by_path, by_pixels = predictor("vqa").answer([photographs[0], pixels], QUESTIONS[:1])
    assert [it.answer for it in by_path] == [it.answer for it in by_pixels]


def test_photographs_are_taken_as_they_come_to_hand(
    photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    asked, path = predictor("vqa"), photographs[0]
    with Image.open(path) as opened:
        forms: list[Any] = [path, str(path), opened, np.asarray(opened.convert("RGB"))]
        found = asked.answer(iter(forms), iter(QUESTIONS[:1]))
    for other in found[1:]:
        assert [it.probability for it in other] == pytest.approx([it.probability for it in found[0]], abs=1e-5)
        known = asked.detect_each(forms)
    assert [it.name for it in known if isinstance(it, Detected)] == [str(path), str(path), "image 2", "image 3"]
    for again in asked.answer(known, QUESTIONS[:1]):  # type: ignore[arg-type]
        assert [it.answer for it in again] == [it.answer for it in found[0]]
    assert asked.detect_each(known) == known  # type: ignore[arg-type]


def test_an_image_of_pil_is_upright_and_opaque_as_its_file(
    tmp_path: Path, photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    with Image.open(photographs[0]) as opened:
        turned = Image.Exif()
        turned[0x0112] = 6
        opened.save(tmp_path / "turned.png", exif=turned)
        clear = opened.convert("RGBA")
        clear.putalpha(Image.linear_gradient("L").resize(opened.size))
        clear.save(tmp_path / "clear.png")
    for name in ("turned.png", "clear.png"):
        with Image.open(tmp_path / name) as image:
            by_image, by_path = predictor("vqa").detect([image, tmp_path / name])
        assert np.array_equal(by_image.boxes, by_path.boxes)
        assert (by_image.width, by_image.height) == (by_path.width, by_path.height)


def test_orientation_does_not_depend_on_how_a_path_is_written(
    tmp_path: Path, photographs: list[Path], predictor: Callable[[str], Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "val2017" / "000000000139.jpg"
    path.parent.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(photographs[0]) as opened:
        opened.resize((40, 30)).save(path, exif=turned)
    monkeypatch.chdir(path.parent)
    reader = predictor("vqa").reader
    for name in (str(path), path.name, f"./{path.name}"):
        assert reader.pixels(name, 0).shape == (30, 40, 3)  # as stored: COCO's boxes fit it
    shutil.copy(path, "photo.jpg")
    assert reader.pixels("photo.jpg", 0).shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("task", "ask", "said"),
    [
        ("vqa", lambda it, image: it.answer(image, ["a"]), "images: is a single str; give a list of photographs"),
        ("vqa", lambda it, image: it.answer(Path(image), ["a"]), "images: is a single PosixPath"),
        ("vqa", lambda it, image: it.answer([image], "a"), "questions: is a single str; give a list of texts"),
        ("vqa", lambda it, image: it.answer([image], [b"a"]), r"questions\[0\]: is a bytes; give text"),
        ("vqa", lambda it, image: it.answer([3], ["a"]), r"images\[0\]: is a int; give a path"),
        ("vqa", lambda it, image: it.answer(np.zeros((4, 4, 3), np.uint8), ["a"]), "images: is a single ndarray"),
        ("vqa", lambda it, image: it.answer(None, ["a"]), "images: is a single NoneType"),
        ("refcocog", lambda it, image: it.point([image], "a ring"), "phrases: is a single str"),
        ("retrieval", lambda it, image: it.rank([image], "a ring"), "captions: is a single str"),
        ("captioning", lambda it, image: it.describe(image), "images: is a single str"),
        ("vcr-qa", lambda it, image: it.choose([image], ["a"], ["b", "c"]), r"options\[0\]: is a single str"),
        ("vcr-qa", lambda it, image: it.choose([image], ["a"], "bc"), "options: give a list of texts for each"),
        ("nlvr2", lambda it, image: it.judge([image, image], ["a"]), r"pairs\[0\]: is a single str"),
        ("nlvr2", lambda it, image: it.judge([[image]], ["a"]), r"pairs\[0\]: has 1 photographs; give two"),
        ("vqa", lambda it, image: it.detect(image), "images: is a single str"),
    ],
)
def test_one_in_place_of_a_list_is_refused(
    photographs: list[Path], predictor: Callable[[str], Predictor], task: str, ask: Callable[[Any, str], Any], said: str
) -> None:
    with pytest.raises(RefusedError, match=said):
        ask(predictor(task), str(photographs[0]))
    with pytest.raises(TypeError):
        ask(predictor(task), str(photographs[0]))


def test_labels_of_snli_ve_are_the_answers(photographs: list[Path], predictor: Callable[[str], Predictor]) -> None:
    (found,) = predictor("snli-ve").answer(photographs[:1], QUESTIONS[:1])
    assert {it.answer for it in found} == {"entailment", "neutral", "contradiction"}


def test_a_photograph_is_detected_once_for_all_its_questions(
    photographs: list[Path], predictor: Callable[[str], Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = in_batches_of(predictor("vqa"), 2)
    seen: list[int] = []
    extract = type(asked.reader.extractor).extract

    def counted(self: Any, images: Any, boxes: Any) -> Any:
        seen.append(len(images))
        return extract(self, images, boxes)

    monkeypatch.setattr(type(asked.reader.extractor), "extract", counted)
    found = asked.answer(photographs[:1], [*QUESTIONS, *QUESTIONS])
    assert len(found) == 6
    assert sum(seen) == 1


def test_a_file_that_is_no_image_is_named_with_the_reason(
    tmp_path: Path, photographs: list[Path], predictor: Callable[[str], Predictor]
) -> None:
    broken = tmp_path / "page.jpg"
    broken.write_text("<html>not found</html>")
    with pytest.raises(RefusedError, match=r"page\.jpg.*not_an_image"):
        predictor("vqa").answer([photographs[0], broken], QUESTIONS[:1])
    with pytest.raises(RefusedError, match=r"gone\.jpg.*missing_file"):
        predictor("vqa").answer([tmp_path / "gone.jpg"], QUESTIONS[:1])


def test_pixels_of_another_kind_are_refused(predictor: Callable[[str], Predictor]) -> None:
    grey: Any = np.zeros((40, 40), dtype=np.uint8)
    with pytest.raises(RefusedError, match=r"image 0: is uint8\[40, 40\]"):
        predictor("vqa").answer([grey], QUESTIONS[:1])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=re.escape("has no task.json")):
        load(tmp_path / "gone")


def test_a_model_without_parameters_is_refused(tmp_path: Path) -> None:
    run = write_model(tmp_path / "run", "vqa")
    (run / "final" / "model.safetensors").unlink()
    with pytest.raises(RefusedError, match="is not a complete model"):
        load(run)


def test_a_detector_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"takes features of 64 channels and --detector shapes gives 256"):
        load(write_model(tmp_path / "run", "vqa", v_feature_size=64))


@pytest.mark.parametrize(
    ("task", "ask"),
    [
        ("vqa", lambda it, image: it.point([image], ["ring"])),
        ("vqa", lambda it, image: it.describe([image])),
        ("refcocog", lambda it, image: it.answer([image], ["ring"])),
        ("captioning", lambda it, image: it.rank([image], ["ring"])),
        ("retrieval", lambda it, image: it.choose([image], ["ring"], [["a", "of"]])),
    ],
)
def test_a_model_of_another_task_is_not_asked(
    photographs: list[Path], predictor: Callable[[str], Predictor], task: str, ask: Callable[[Predictor, Path], object]
) -> None:
    with pytest.raises(RefusedError, match=f"was trained for {task}"):
        ask(predictor(task), photographs[0])


@given(images=st.integers(0, 6), texts=st.integers(0, 6))
def test_one_goes_with_all_and_others_by_order(images: int, texts: int) -> None:
    if 0 in (images, texts) or (images != texts and 1 not in (images, texts)):
        with pytest.raises(RefusedError, match=f"{images} images and {texts} questions"):
            paired(images, texts, "questions")
        return
    pairs = paired(images, texts, "questions")
    assert {image for image, _ in pairs} == set(range(images))
    assert {text for _, text in pairs} == set(range(texts))
    assert len(pairs) == max(images, texts)


def test_every_word_and_region_looks_somewhere(photographs: list[Path], predictor: Callable[[str], Predictor]) -> None:
    attention = predictor("vqa").attend(photographs[0], (QUESTIONS[0],))
    assert attention.words == ("[CLS]", *QUESTIONS[0].split(), "[SEP]")
    assert len(attention.regions) == len(attention.boxes_xyxy) > 2
    assert len(attention.maps) == 2 + 2 + 2 * 2
    sizes = {"words": len(attention.words), "regions": len(attention.regions)}
    for found in attention.maps:
        assert found.weights.shape[1:] == (sizes[found.rows], sizes[found.columns])
        assert np.allclose(found.weights.sum(-1), 1, atol=1e-5)


def test_words_of_a_caption_look_back_only(photographs: list[Path], predictor: Callable[[str], Predictor]) -> None:
    attention = predictor("captioning").attend(photographs[0], ("a red ring",))
    within = [found for found in attention.maps if found.rows == found.columns == "words"]
    assert all(np.triu(head, 1).max() < 1e-6 for found in within for head in found.weights)


def test_a_model_with_task_tokens_is_given_its_own(photographs: list[Path], tmp_path: Path) -> None:
    tokens = load(write_model(tmp_path / "run", "vqa", task_specific_tokens=True))
    attention = tokens.attend(photographs[0], (QUESTIONS[0],))
    assert attention.words[:2] == ("[CLS]", "[TASK]")
    assert attention.maps[0].weights.shape[1] == len(attention.words)
    (before,) = tokens.answer(photographs[:1], QUESTIONS[:1])
    with torch.no_grad():
        tokens.reader.trained.model.bert.embeddings.task_embeddings.weight[1] += 1
    (after,) = tokens.answer(photographs[:1], QUESTIONS[:1])
    assert before != after
