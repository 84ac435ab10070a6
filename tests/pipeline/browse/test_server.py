"""What each page shows, asked for as a browser does."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.dataset import read_dataset, write_dataset
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.small_features import STORED_AS

from ..shards.columns.made import make_region_column
from ..shards.conftest import SmallDataset, random_regions, write_small_dataset
from .conftest import Browse, hostile_dataset

ClientOf = Callable[[Site], TestClient]


def test_every_link_of_every_page_leads_somewhere(dataset: SmallDataset, browse: Browse, client_of: ClientOf) -> None:
    client = client_of(browse(dataset.directory))
    todo, seen = ["/0/"], {"/", "/0/"}
    visited: Counter[str] = Counter()
    while todo:
        path = todo.pop(0)
        kind = path.partition("?")[0].rstrip("0123456789").rpartition("/")[0][:10]
        visited[kind] += 1
        if visited[kind] > 6:
            continue
        response = client.get(path)
        assert response.status_code == 200, path
        if "html" in response.headers["content-type"]:
            for target in re.findall(r'(?:href|src)="(/[^"#]*)', response.text):
                path = target.replace("&amp;", "&")
                if path not in seen:
                    seen.add(path)
                    todo.append(path)
    assert {path.split("/")[2].partition("?")[0] for path in seen if path.startswith("/0/")} >= {
        *("sample", "image", "statistics", "failures", "failure", "similar", "crop"),
    }


def test_a_sample_page_has_regions_captions_record_and_place(
    dataset: SmallDataset, browse: Browse, client_of: ClientOf
) -> None:
    client = client_of(browse(dataset.directory))
    with open_dataset(dataset.directory) as samples:
        sample = samples[4]
    html = client.get(f"/0/sample/{sample.key}").text
    regions = sample.regions
    for score in regions.object_scores:
        assert f"{score:.3f}" in html
    for probability in regions.class_probs.reshape(-1):
        assert f"{probability:.3f}" in html
    for name in {dataset.info.class_names[number] for number in regions.object_ids}:
        assert name in html
    for caption in sample.meta["captions"]:
        assert caption in html
    assert sample.meta["sha256"] in html
    if dataset.info.storage == "tar":
        (offset,) = re.findall(r"byte ([\d,]+)</dd>", html)
        path = dataset.data_file(int(re.findall(r"shards/(\d{6})", html)[0]))
        assert path.read_bytes()[int(offset.replace(",", "")) :].startswith(sample.key.encode())


def test_a_sample_page_shows_the_values_of_columns(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    data = write_small_dataset(tmp_path)
    lines = [f'{{"image_id": "photo.{row:03}", "note": "<script>{row}</script>"}}' for row in range(10)]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    values = open_values(tmp_path / "notes.jsonl", ids=None, id_column="image_id", value_column=None)
    add_column(LocalFolder(data.directory), "note", values, missing="error")
    client = client_of(browse(data.directory))
    with open_dataset(data.directory) as samples:
        url = f"/0/sample/{samples[1].key}"
    assert "<dt>note</dt><dd>&lt;script&gt;1&lt;/script&gt;</dd>" in client.get(url).text
    (data.directory / "columns/note/shards/000000.tar").write_bytes(b"damaged")
    page = client.get(url)
    assert page.status_code == 200
    assert "is not a tar of members KEY.note.json" in page.text


def test_a_sample_page_shows_the_regions_of_a_column(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    """Boxes, names and scores of the column, whose classes are others; the data set's own on the page without it."""

    def other_regions(row: int, sample: Sample) -> Sample:
        regions = random_regions(row + 50)
        return dataclasses.replace(sample, regions=regions)

    data = write_small_dataset(tmp_path / "a")
    other = write_small_dataset(tmp_path / "b", change=other_regions, failed={2: "corrupt", 5: "x", 6: "x", 9: "none"})
    info = dataclasses.replace(read_dataset(other.directory), class_names=("background", "<b>cup", "car", "cat"))
    write_dataset(other.directory, info)
    make_region_column(data.directory, other.directory, "second")
    client = client_of(browse(data.directory))
    with open_dataset(data.directory) as samples, open_dataset(data.directory / "columns/second") as column:
        own, second = samples[1].regions, column[1].regions
        url, last = f"/0/sample/{samples[1].key}", f"/0/sample/{samples[6].key}"
    plain, shown = client.get(url).text, client.get(f"{url}?caption=caption&column=second").text
    for html, regions, hidden in ((plain, own, second), (shown, second, own)):
        assert all(f'x="{round(box[0], 1)}"' in html for box in regions.boxes.tolist())
        assert all(f"{score:.3f}" in html for score in regions.object_scores)
        assert not all(f"{score:.3f}" in html for score in hidden.object_scores)
    assert "Regions of column second" in shown
    assert "&lt;b&gt;cup" in shown
    assert "<b>cup" not in shown
    assert f'{url}?column=second"' in plain
    assert f'{url}?caption=caption"' in shown
    unfiltered = client.get(f"{url}?column=second").text
    assert re.findall(r'rel="next" href="[^"]*column=second', unfiltered)
    assert "/similar/" not in shown
    assert "has no regions of this sample" in client.get(f"{last}?column=second").text
    assert "There is no finished column of regions" in client.get(f"{url}?column=../../secret").text
    (data.directory / "columns/second/shards/000000.tar").write_bytes(b"damaged")
    damaged = client.get(f"{url}?column=second")
    assert damaged.status_code == 200
    assert "drop the column" in damaged.text


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_pages_of_features_of_one_byte_are_those_of_float16(
    dtype: str, tmp_path: Path, browse: Browse, client_of: ClientOf
) -> None:
    """The page of a sample names the stored dtype; similar regions are those of the expanded features."""

    def small_features(row: int, sample: Sample) -> Sample:
        return sample.with_features(STORED_AS[dtype])

    def expanded(row: int, sample: Sample) -> Sample:
        return dataclasses.replace(small_features(row, sample), small=None)

    made = write_small_dataset(tmp_path / "a", change=expanded)
    small = write_small_dataset(tmp_path / "b", change=small_features)
    fields = describe_fields(
        feature_dim=made.info.feature_dim, top_classes=made.info.top_classes, attributes=True,
        feature_dtype=STORED_AS[dtype],
    )  # fmt: skip
    write_dataset(small.directory, dataclasses.replace(read_dataset(small.directory), fields=fields))
    assert main(["verify", str(small.directory), "--deep"]) == 0
    with open_dataset(made.directory) as samples:
        keys = [sample.key for sample in samples]
    client, expected = client_of(browse(small.directory)), client_of(browse(made.directory))
    for key in keys[:2]:
        page = client.get(f"/0/sample/{key}").text
        assert f"<td>{STORED_AS[dtype]}</td>" in page
        assert "feature_scales" not in page
        similar, other = (it.get(f"/0/similar/{key}/0/found").text for it in (client, expected))
        links = [re.findall(r'href="(/0/sample/[^"]*)"', text) for text in (similar, other)]
        assert links[0] == links[1]
        assert len(links[0]) > 5


def test_an_image_id_leads_to_its_key(dataset: SmallDataset, browse: Browse, client_of: ClientOf) -> None:
    response = client_of(browse(dataset.directory)).get("/0/sample/photo.001?caption=caption")
    assert response.status_code == 307
    assert response.headers["location"].startswith("/0/sample/photo_001-")
    assert response.headers["location"].endswith("?caption=caption")


@pytest.mark.parametrize(
    ("number", "reason"), [(2, "missing"), (3, "is not the file that the regions were extracted from"), (4, "decoded")]
)
def test_an_image_that_cannot_be_shown_says_why(
    number: int, reason: str, tmp_path: Path, browse: Browse, client_of: ClientOf
) -> None:
    response = client_of(browse(hostile_dataset(tmp_path).directory)).get(f"/0/image/{number}?side=360")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/plain")
    assert reason in response.text


def test_a_kept_image_needs_no_file(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    def keep(row: int, sample: Sample) -> Sample:
        return dataclasses.replace(sample, image=Path(sample.meta["uri"]).read_bytes())

    made = write_small_dataset(tmp_path, change=keep)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    assert client_of(browse(made.directory)).get("/0/image/0").status_code == 200


def test_a_private_address_is_not_fetched(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    def remote(row: int, sample: Sample) -> Sample:
        return dataclasses.replace(sample, meta={**sample.meta, "uri": "http://user:secret@127.0.0.1:9/a.jpg"})

    response = client_of(browse(write_small_dataset(tmp_path, change=remote).directory)).get("/0/image/0")
    assert response.status_code == 404
    assert "private_address" in response.text
    assert "secret" not in response.text


def test_failures_are_listed_by_reason_with_a_preview(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    client = client_of(browse(hostile_dataset(tmp_path).directory))
    assert "corrupt" in client.get("/0/failures").text
    assert client.get("/0/failures?failure=none").status_code == 400
    page = client.get("/0/failure/6").text
    assert "No picture can be decoded" in page
    assert "3c 68 74 6d 6c" in page  # the first bytes, <html
    assert client.get("/0/failure/6/image").status_code == 404


def test_a_failed_file_that_can_be_decoded_is_shown(dataset: SmallDataset, browse: Browse, client_of: ClientOf) -> None:
    client = client_of(browse(dataset.directory))
    assert "What can be decoded" in client.get("/0/failure/2").text
    assert client.get("/0/failure/2/image?side=160").headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("name", ["secrets.txt", "id_rsa.pem", "app.log"])
def test_the_bytes_of_a_file_that_is_not_called_an_image_are_not_shown(
    name: str, tmp_path: Path, browse: Browse
) -> None:
    (tmp_path / name).write_text("the secret")
    site = browse(write_small_dataset(tmp_path).directory)
    assert site.photographs.preview(str(tmp_path / name)) == "not shown: the name is not that of an image"


def test_statistics_count_what_stats_prints(
    dataset: SmallDataset, browse: Browse, client_of: ClientOf, capsys: pytest.CaptureFixture[str]
) -> None:
    html = client_of(browse(dataset.directory)).get("/0/statistics").text
    assert main(["stats", str(dataset.directory)]) == 0
    printed = capsys.readouterr().out
    found = dict(re.findall(r'class="name">([^<]*)</span>.*?class="number">([\d,]+)<', html, re.DOTALL))
    rows = re.findall(r"^ +([a-z]+|0\.\d-[01]\.\d)  +([\d,]+)  █", printed, re.MULTILINE)
    assert len(rows) > 8
    for name, count in rows:
        assert found[name] == count


def test_each_bar_leads_to_as_many_images_as_it_counts(
    dataset: SmallDataset, browse: Browse, client_of: ClientOf
) -> None:
    client = client_of(browse(dataset.directory))
    html = client.get("/0/statistics").text
    bars = re.findall(
        r'href="(/0/\?(?:split|boxes_min|captions_min|side_min)[^"]*)".*?class="number">([\d,]+)<', html, re.DOTALL
    )
    assert len(bars) > 5
    for url, count in bars:
        assert f"<strong>{count}</strong>" in client.get(url.replace("&amp;", "&")).text, url


def test_a_shard_that_is_removed_while_it_is_served_is_named(
    dataset: SmallDataset, browse: Browse, client_of: ClientOf
) -> None:
    site = browse(dataset.directory)
    client, rows = client_of(site), site.datasets[0].index.at(range(7))
    (lost,) = [row for row in rows if row.shard == 2][:1]
    dataset.data_file(2).unlink()
    (dataset.directory / "dataset.json").write_text("{}")
    page = client.get(f"/0/sample/{lost.key}")
    assert page.status_code == 200
    assert dataset.data_file(2).name in page.text.partition('role="alert"')[2]
    assert client.get(f"/0/image/{lost.number}").status_code == 404
    similar = client.get(f"/0/similar/{rows[0].key}/0/found")
    assert similar.status_code == 200
    assert similar.text.count('class="card"') > 0
    assert client.get("/0/?boxes_min=1").text.count('class="card"') == 7


def test_a_shard_that_is_replaced_by_a_smaller_one_while_it_is_served_is_not_searched(
    dataset: SmallDataset, browse: Browse, client_of: ClientOf
) -> None:
    site = browse(dataset.directory)
    client, rows = client_of(site), site.datasets[0].index.at(range(7))
    shutil.rmtree(dataset.data_file(0), ignore_errors=True)  # LMDB: a folder
    copy = shutil.copytree if dataset.data_file(2).is_dir() else shutil.copy
    copy(dataset.data_file(2), dataset.data_file(0))
    found = site.similar[0].find(rows[4], 0)
    assert {it.number for it in found.regions} <= {3, 4, 5, 6}
    assert client.get(f"/0/similar/{rows[4].key}/0/found").status_code == 200


@pytest.mark.parametrize("region", [4, 10**9, 10**25])
@pytest.mark.parametrize("page", ["", "/found"])
def test_a_region_that_does_not_exist_is_named(
    region: int, page: str, dataset: SmallDataset, browse: Browse, client_of: ClientOf
) -> None:
    site = browse(dataset.directory)
    row = site.datasets[0].index.at([0])[0]
    assert len(site.datasets[0].features(row)) == 4
    answer = client_of(site).get(f"/0/similar/{row.key}/{region}{page}")
    assert answer.status_code == 400
    assert "region: there are 4, numbered from 0" in answer.text


@pytest.mark.parametrize("query", ["", "failure=any&", "boxes_min=2&sort=-boxes&"])
def test_a_place_behind_the_last_shows_the_last_page(
    query: str, dataset: SmallDataset, browse: Browse, client_of: ClientOf
) -> None:
    client = client_of(browse(dataset.directory))
    page = client.get(f"/0/?{query}after=4611686018427387904")
    assert page.status_code == 200
    assert page.text.count('class="card"') == client.get(f"/0/?{query}").text.count('class="card"') > 0


def test_similar_regions_are_those_of_the_largest_cosine(dataset: SmallDataset, browse: Browse) -> None:
    site = browse(dataset.directory)
    with open_dataset(dataset.directory) as samples:
        everything = [
            (number, region, features / np.linalg.norm(features))
            for number, sample in enumerate(samples)
            for region, features in enumerate(sample.regions.features.astype(np.float64))
        ]
    wanted = everything[9][2]
    expected = sorted(((float(it @ wanted), number, region) for number, region, it in everything), reverse=True)[1:]
    found = site.similar[0].find(site.datasets[0].index.at([everything[9][0]])[0], everything[9][1])
    assert found.searched == len(everything)
    assert [it[1:] for it in found.regions] == [it[1:] for it in expected]
    assert [it.cosine for it in found.regions] == pytest.approx([it[0] for it in expected], abs=1e-5)


def test_the_page_of_similar_regions_is_there_before_they_are_searched(
    dataset: SmallDataset, browse: Browse, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = browse(dataset.directory)
    client, key = client_of(site), site.datasets[0].index.at([1])[0].key
    found = client.get(f"/0/similar/{key}/0/found").text
    assert found.count('class="card"') > 5
    assert "data-from" not in found
    monkeypatch.setattr(type(site.similar[0]), "find", None)
    page = client.get(f"/0/similar/{key}/0")
    assert page.status_code == 200
    assert f'data-from="/0/similar/{key}/0/found"' in page.text
    assert f'<a href="/0/similar/{key}/0/found">' in page.text  # without scripts
    assert client.get("/0/similar/nobody/0").status_code == client.get("/0/similar/nobody/0/found").status_code == 404


def test_a_larger_data_set_is_searched_in_samples_at_equal_distances(
    dataset: SmallDataset, browse: Browse, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vilbert.pipeline.browse.similar.MAX_REGIONS", 10)
    site = browse(dataset.directory)
    found = site.similar[0].find(site.datasets[0].index.at([1])[0], 0)
    assert (found.stride, found.searched) == (3, 12)
    assert {it.number for it in found.regions} == {0, 3, 6}
    key = site.datasets[0].index.at([1])[0].key
    assert "12 of them were compared, those of one sample in 3" in client_of(site).get(f"/0/similar/{key}/0/found").text
    site.similar[0].approximate.wait()  # its thread reads the data set


def test_several_data_sets_have_pages_of_their_own(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    first = write_small_dataset(tmp_path / "a")
    second = write_small_dataset(tmp_path / "b", failed={})
    client = client_of(browse(first.directory, second.directory))
    assert "7 samples" in client.get("/").text
    assert "10 samples" in client.get("/").text
    assert "<strong>10</strong> of 10" in client.get("/1/").text


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_a_data_set_without_classes_has_all_pages_but_their_filters(
    storage: str, tmp_path: Path, browse: Browse, client_of: ClientOf
) -> None:
    golden = Path(__file__).parents[1] / "shards" / "golden" / f"{storage}-2"
    directory = tmp_path / "data"
    shutil.copytree(golden, directory)
    client = client_of(browse(directory))
    page = client.get("/0/").text
    assert page.count('class="card"') > 0
    assert 'name="object"' not in page
    assert "the regions of this data set have no classes" in client.get("/0/?object=dog").text
    for path in re.findall(r'href="(/0/sample/[^"]*)"', page):
        assert "Region" in client.get(path).text
    for path in ("/0/statistics", "/0/failures"):
        assert client.get(path).status_code == 200
