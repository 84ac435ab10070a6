"""Simple pictures and the annotation files of every task about them, in the published layouts.

A picture shows three of ten things, each found by one box of one size; what a text asks cannot be told from the text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vilbert.extractors.regions import Regions

from ..train.conftest import write_dataset_folder

THINGS = ("sky", "tree", "dog", "boat", "lamp", "chair", "road", "horse", "cup", "train")
CLASSES = ("background", *THINGS)
SHOWN, CHANNELS, PICTURES = 3, 16, 900
SIZE = 200
MODEL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 24, "v_hidden_size": 32, "v_num_hidden_layers": 2, "v_num_attention_heads": 2,
    "v_intermediate_size": 64, "bi_hidden_size": 32, "bi_num_attention_heads": 2, "v_biattention_id": [0, 1],
    "t_biattention_id": [0, 1], "initializer_range": 0.15, "location_initializer_range": 1.0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "v_hidden_dropout_prob": 0.0,
    "v_attention_probs_dropout_prob": 0.0, "pooled_dropout_prob": 0.0, "v_target_size": 11,
}  # fmt: skip
SPLITS = ("train", "val", "test")


def split_of(picture: int) -> str:
    """Return train for five pictures in six."""
    return "val" if picture % 6 == 0 else "train"


def shown(picture: int) -> list[int]:
    """Return which things a picture shows, from left to right."""
    return np.random.default_rng((7, picture)).permutation(len(THINGS))[:SHOWN].tolist()


def sides(pair: int) -> tuple[int, int]:
    """Return the left and the right picture of a pair; the right ones are in pairs alone."""
    return pair, PICTURES + pair


def boxes_of(picture: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return where they are, [3, 4] xyxy."""
    left = np.random.default_rng((8, picture)).uniform(0, 8, SHOWN) + np.arange(SHOWN) * 65
    return np.stack([left, np.full(SHOWN, 20.0), left + 50, np.full(SHOWN, 90.0)], axis=1).astype(np.float32)


def regions(picture: int) -> Regions:
    """Return a box on each thing, in random order, whose features tell which it is."""
    draw = np.random.default_rng((9, picture))
    look = np.random.default_rng(10).standard_normal((len(CLASSES), CHANNELS)) * 2
    order = draw.permutation(SHOWN)
    things = (np.array(shown(picture)) + 1)[order]
    return Regions(
        boxes=boxes_of(picture)[order],
        features=(look[things] + draw.standard_normal((SHOWN, CHANNELS)) * 0.3).astype(np.float16),
        object_ids=things.astype(np.uint16),
        object_scores=np.full(SHOWN, 0.9, np.float32),
        class_ids=np.stack([things, things % 10 + 1], axis=1).astype(np.uint16),
        class_probs=np.tile([0.9, 0.05], (SHOWN, 1)).astype(np.float16),
        width=SIZE,
        height=SIZE,
    )


def sentence(picture: int) -> str:
    """Return a caption that names all things, from left to right."""
    first, second, third = (THINGS[thing] for thing in shown(picture))
    return f"a {first} a {second} and a {third}"


def asked(picture: int, which: int) -> tuple[str, bool]:
    """Return a thing that a picture shows or not, and whether it does."""
    draw = np.random.default_rng((11, picture, which))
    there = bool(draw.integers(2))
    things = [thing for thing in range(len(THINGS)) if (thing in shown(picture)) == there]
    return THINGS[int(draw.choice(things))], there


def asked_of_both(pair: int) -> tuple[str, bool]:
    """Return a thing that at least one picture of a pair shows, and whether both do.

    Half of the pairs do, a quarter shows it left alone and a quarter right alone: who sees one picture is right about
    three in four, and no more.
    """
    draw = np.random.default_rng((13, pair))
    left, right = (set(shown(picture)) for picture in sides(pair))
    both = left == right or (bool(left & right) and draw.random() < 0.7)  # seven pairs in ten have a thing in common
    things = left & right if both else left - right if draw.integers(2) else right - left
    return THINGS[int(draw.choice(sorted(things)))], both


def write_json(path: Path, content: Any) -> None:
    """Write JSON, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: list[Any]) -> None:
    """Write JSON, an object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_vqa(folder: Path) -> None:
    """Write VQA v2's files: is a thing there?"""
    for split, name in (("train", "train2014"), ("val", "val2014")):
        questions: list[Any] = []
        annotations: list[Any] = []
        for picture in (p for p in range(PICTURES) if split_of(p) == split):
            for which in range(2):
                thing, there = asked(picture, which)
                number, answer = picture * 1000 + which, "yes" if there else "no"
                questions.append({"image_id": picture, "question": f"Is there a {thing}?", "question_id": number})
                answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
                annotations.append({
                    "question_type": "is there a", "multiple_choice_answer": answer, "answers": answers,
                    "image_id": picture, "answer_type": "yes/no", "question_id": number,
                })  # fmt: skip
        write_json(folder / f"v2_OpenEnded_mscoco_{name}_questions.json", {"questions": questions})
        write_json(folder / f"v2_mscoco_{name}_annotations.json", {"annotations": annotations})


def write_gqa(folder: Path) -> None:
    """Write GQA's files: the same questions."""
    for split in ("train", "val"):
        rows = {}
        for picture in (p for p in range(PICTURES) if split_of(p) == split):
            thing, there = asked(picture, 0)
            answer = "yes" if there else "no"
            rows[f"{picture:08}"] = {"question": f"Is there a {thing}?", "imageId": str(picture), "answer": answer}
        write_json(folder / f"{split}_balanced_questions.json", rows)


def write_vcr(folder: Path) -> None:
    """Write VCR's files: of four things one is there; the reason names another that is."""
    for split in ("train", "val"):
        rows = []
        for picture in (p for p in range(PICTURES) if split_of(p) == split):
            draw = np.random.default_rng((12, picture))
            there, gone = shown(picture), [t for t in range(len(THINGS)) if t not in shown(picture)]
            row: dict[str, Any] = {
                "objects": [THINGS[thing] for thing in there], "img_fn": f"COCO_{split}2014_{picture:012}.jpg",
                "metadata_fn": "none.json", "question": ["What", "is", "there", "?"], "annot_id": f"{split}-{picture}",
            }  # fmt: skip
            for of, right in (("answer", there[0]), ("rationale", there[1])):
                wrong = draw.choice(gone, 3, replace=False).tolist()
                options = draw.permutation([right, *wrong]).tolist()
                row[f"{of}_choices"] = [["a", THINGS[thing], "."] for thing in options]
                row[f"{of}_label"] = options.index(right)
            rows.append(row)
        write_lines(folder / f"{split}.jsonl", rows)


def write_refer(folder: Path) -> None:
    """Write REFER's files: a thing by its name."""
    refs, instances = [], []
    for picture in range(PICTURES):
        for at, (thing, box) in enumerate(zip(shown(picture), boxes_of(picture).tolist(), strict=True)):
            number = picture * 10 + at
            x1, y1, x2, y2 = box
            instances.append(
                {"id": number, "image_id": picture, "category_id": thing, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
            refs.append({
                "ref_id": number, "ann_id": number, "category_id": thing, "image_id": picture, "file_name": "x.jpg",
                "split": split_of(picture), "sent_ids": [number],
                "sentences": [{"sent_id": number, "sent": "", "raw": THINGS[thing], "tokens": []}],
            })  # fmt: skip
    write_json(folder / "refs(umd).json", refs)
    write_json(folder / "instances.json", {"images": [], "annotations": instances, "categories": []})


def write_captions(folder: Path) -> None:
    """Write a Karpathy document."""
    images = [
        {
            "filepath": "val2014", "filename": f"COCO_val2014_{picture:012}.jpg", "cocoid": picture, "imgid": picture,
            "split": split_of(picture), "sentids": [picture],
            "sentences": [{"raw": sentence(picture), "tokens": [], "sentid": picture, "imgid": picture}],
        }
        for picture in range(PICTURES)
    ]  # fmt: skip
    write_json(folder / "dataset_coco.json", {"dataset": "coco", "images": images})


def write_nlvr2(folder: Path) -> None:
    """Write NLVR2's files about pairs of pictures: is a thing on both, or on the left or the right one alone?"""
    for name, split in (("train", "train"), ("dev", "val")):
        rows = []
        for pair in (p for p in range(PICTURES) if split_of(p) == split):
            thing, both = asked_of_both(pair)
            rows.append({
                "identifier": f"{name}-{pair}-0-0", "sentence": f"there is a {thing} in both", "label": str(both),
            })  # fmt: skip
        write_lines(folder / f"{name}.json", rows)


def write_snli_ve(folder: Path) -> None:
    """Write SNLI-VE's files: a thing that is there, one that is not, or nothing to be seen in a picture."""
    for name, split in (("train", "train"), ("dev", "val")):
        rows = []
        for picture in (p for p in range(PICTURES) if split_of(p) == split):
            thing, there = asked(picture, 0)
            label = "entailment" if there else "contradiction"
            rows.append({
                "pairID": f"{picture}", "Flikr30kID": f"{picture}.jpg", "sentence2": f"a {thing}", "gold_label": label,
            })  # fmt: skip
        write_lines(folder / f"snli_ve_{name}.jsonl", rows)


WRITERS = {
    "vqa": write_vqa, "gqa": write_gqa, "vcr": write_vcr, "refer": write_refer, "captions": write_captions,
    "nlvr2": write_nlvr2, "snli-ve": write_snli_ve,
}  # fmt: skip
FOLDERS = {
    "vqa": "vqa", "gqa": "gqa", "vcr-qa": "vcr", "vcr-qar": "vcr", "refcocog": "refer", "retrieval": "captions",
    "captioning": "captions", "nlvr2": "nlvr2", "snli-ve": "snli-ve",
}  # fmt: skip
"""Of each task's annotations."""


def write_tasks(folder: Path) -> None:
    """Write features, features of the left and right pictures of NLVR2, a model and all annotations."""
    write_dataset_folder(
        folder / "features", samples=PICTURES, shard_size=300, feature_dim=CHANNELS, top_classes=2,
        class_names=CLASSES, splits=split_of, image_id=str, draw=regions, captions=lambda p: (sentence(p),),
    )  # fmt: skip

    def side(row: int) -> str:
        name = "dev" if split_of(row // 2) == "val" else "train"
        return f"{name}-{row // 2}-0-img{row % 2}"

    write_dataset_folder(
        folder / "pairs", samples=2 * PICTURES, shard_size=600, feature_dim=CHANNELS, top_classes=2,
        class_names=CLASSES, image_id=side, draw=lambda row: regions(sides(row // 2)[row % 2]),
    )  # fmt: skip
    (folder / "model.json").write_text(json.dumps(MODEL))
    for name, write in WRITERS.items():
        write(folder / name)


def finetune_arguments(small: Path, task: str, output: Path, *, steps: int) -> list[str]:
    """Return the command line, without `vilbert`, of a short run from nothing; options behind it go over it."""
    data = small / ("pairs" if task == "nlvr2" else "features")
    rate = "0.001" if task in ("vqa", "gqa") else "0.002"  # two-layer heads are easily thrown off
    return [
        "finetune", task, str(data), "--annotations", str(small / FOLDERS[task]), "--output", str(output),
        "--init-from", "none", "--tokenizer", "new", "--model", str(small / "model.json"), "--batch-size", "32",
        "--max-steps", str(steps), "--eval-every", "10000", "--checkpoint-every", "10000", "--log-every", "10",
        "--num-workers", "0", "--device", "cpu", "--tracker", "none", "--learning-rate", rate, "--beta2", "0.98",
        "--warmup", "0.05", "--max-tokens", "16", "--max-regions", "8", "--seed", "1", "--clip", "1.0",
        "--bias-correction",
        *(("--min-answer-count", "1") if task in ("vqa", "gqa") else ()),
        *(("--split", "train", "--eval-split", "val") if task == "vqa" else ()),
        *(() if task in ("captioning", "refcocog") else ("--head-learning-rate", rate)),
    ]  # fmt: skip
