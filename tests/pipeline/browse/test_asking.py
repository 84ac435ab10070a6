"""A model is asked about a sample with the regions of the data set, and says what `Predictor` says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.predict.photographs import Detected
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.shards.open_dataset import open_dataset

from ..predict.tiny_predictor import DETECTOR, SELECTION, write_features, write_model, write_scenes
from ..shards.conftest import write_small_dataset
from .conftest import Browse

ClientOf = Callable[[Site], TestClient]
ASKED: dict[str, dict[str, str]] = {
    "vqa": {"question": "what colour is the ring"},
    "refcoco": {"phrase": "the red circle"},
    "vcr-qa": {"question": "what is the ring", "options": "red\nblue\n\ngreen"},
    "retrieval": {"captions": "a red circle\na blue star"},
    "captioning": {},
    "nlvr2": {"statement": "a red circle left of a star", "right": "2"},
}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "scenes")
    write_features(folder / "scenes", folder / "features")
    return folder / "features"


@pytest.mark.parametrize("task", sorted(ASKED))
def test_each_task_has_its_form_and_its_answers(
    task: str, features: Path, tmp_path: Path, browse: Browse, client_of: ClientOf
) -> None:
    run = write_model(tmp_path / "run", task)
    client = client_of(browse(features, checkpoint=run))
    form = client.get("/0/sample/1").text
    assert {*re.findall(r'name="(question|phrase|options|captions|statement|right)"', form)} == {*ASKED[task]}
    query = urlencode({"asked": "1", **ASKED[task]})
    page = client.get(f"/0/sample/1?{query}").text
    table = page.partition('class="answers"')[2].partition("</table>")[0]
    answers = re.findall(r"<th[^>]*>([^<]*)</th>", table)
    predictor = Predictor.load(run, detector=DETECTOR, selection=SELECTION, device="cpu")
    assert answers == expected(task, predictor, features)
    if task == "vqa":
        url = re.findall(r'<iframe[^>]* src="([^"]*)"', page)[0].replace("&amp;", "&")
        attention = client.get(url)
        assert attention.status_code == 200
        assert "co-attention 0: words look at regions" in attention.text
        assert "sandbox allow-scripts" in attention.headers["content-security-policy"]


def expected(task: str, predictor: Predictor, features: Path) -> list[str]:
    with open_dataset(features) as samples:
        seen = {sample.key: Detected(sample.key, sample.regions) for sample in samples}
    asked: dict[str, Any] = ASKED[task]
    match task:
        case "vqa":
            return [it.answer for it in predictor.answer([seen["1"]], [asked["question"]])[0]]
        case "refcoco":
            region = predictor.point([seen["1"]], [asked["phrase"]])[0].region
            return [f"region {region - 1}" if region else "the whole image"]
        case "vcr-qa":
            options = ["red", "blue", "green"]
            (chances,) = predictor.choose([seen["1"]], [asked["question"]], [options])
            return [option for _, option in sorted(zip(chances, options, strict=True), reverse=True)]
        case "retrieval":
            captions = asked["captions"].split("\n")
            scores = predictor.rank([seen["1"]], captions)[:, 0].tolist()
            return [caption for _, caption in sorted(zip(scores, captions, strict=True), reverse=True)]
        case "captioning":
            return predictor.describe([seen["1"]])
    (chance,) = predictor.judge([(seen["1"], seen["2"])], [asked["statement"]])
    return ["true", "false"] if chance > 0.5 else ["false", "true"]


def test_what_cannot_be_asked_is_told(features: Path, tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    run = write_model(tmp_path / "run", "vqa")
    other = write_small_dataset(tmp_path / "other")
    client = client_of(browse(features, other.directory, checkpoint=run))
    assert "Question: is empty" in client.get("/0/sample/1?asked=1").text
    page = client.get("/1/sample/photo.000?asked=1&question=what", follow_redirects=True).text
    assert "takes features of 256 channels and this data set has 8" in page
    with pytest.raises(RefusedError, match="features"):
        browse(features, checkpoint=features)


def test_without_a_model_there_is_no_form(features: Path, browse: Browse, client_of: ClientOf) -> None:
    client = client_of(browse(features))
    assert "Ask the model" not in client.get("/0/sample/1?asked=1&question=what").text
    assert client.get("/0/attention/1?question=what").status_code == 404
