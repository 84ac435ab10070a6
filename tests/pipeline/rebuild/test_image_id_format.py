"""Names of images in an export."""

from __future__ import annotations

from typing import Any

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.image_id_format import ImageNames, check_template, image_name

from ..conftest import build_sample


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{id}", "COCO_000000391895"),
        ("{number}", "391895"),
        ("coco_train2014_{number:012}", "coco_train2014_000000391895"),
        ("{number:03}", "391895"),
        ("{stem}", "photo 1"),
        ("a{id}b{number}", "aCOCO_000000391895b391895"),
    ],
)
def test_templates(template: str, name: str) -> None:
    check_template(template)
    meta = {"image_id": "COCO_000000391895", "uri": "https://x.org/a/photo 1.jpg?w=3"}
    sample = build_sample("k", **meta)
    assert image_name(template, sample) == name


@pytest.mark.parametrize("template", ["", "x", "{}", "{0}", "{ids}", "{id", "{number:3}", "{number:0999}", "{id.x}"])
def test_other_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"use \{id\}"):
        check_template(template)


@pytest.mark.parametrize(
    ("template", "meta", "said"),
    [
        ("{number}", {"image_id": "cat7b"}, "does not end in digits"),
        ("{number}", {"image_id": "cat٣"}, "does not end in digits"),
        ("{stem}", {"image_id": "a"}, "has no uri"),
        ("{stem}", {"image_id": "a", "uri": 3}, "has no uri"),
        ("{stem}", {"image_id": "a", "uri": "https://x.org"}, "has no uri"),
    ],
)
def test_an_image_without_what_the_template_uses_is_refused(template: str, meta: dict[str, Any], said: str) -> None:
    with pytest.raises(ShardError, match=said):
        image_name(template, build_sample("k", **meta))


def test_two_images_of_one_name_are_found() -> None:
    names = ImageNames("{number}")
    assert [names.rename(build_sample(key)).meta["image_id"] for key in ("train_1", "train_2")] == ["1", "2"]
    names.require_unique()
    names.rename(build_sample("val_1"))
    with pytest.raises(ShardError, match="gives 1 of 3 images a name that another image has"):
        names.require_unique()


def test_ids_as_they_are_leave_the_sample_alone() -> None:
    sample = build_sample("k")
    assert ImageNames("{id}").rename(sample) is sample
