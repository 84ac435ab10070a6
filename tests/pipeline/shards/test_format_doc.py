"""FORMAT.md and docs/shards.md say what is so: their programs run, their examples are the golden files."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vilbert.extractors.regions import PAIRS
from vilbert.pipeline.shards.sample import FIELDS

ROOT = Path(__file__).parents[3]
FORMAT_MD = (ROOT / "pipeline/shards/FORMAT.md").read_text(encoding="utf-8")
SHARDS_MD = (ROOT / "docs/shards.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("program", blocks(FORMAT_MD, "python"), ids=["tarfile", "webdataset", "lmdb"])
def test_the_programs_of_the_format_run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_programs_for_users_run(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "features").symlink_to(golden / "tar")
    programs = blocks(SHARDS_MD, "python")
    ours, streamed, hugging_face = programs
    printed = subprocess.run(
        [sys.executable, "-c", ours], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
    ).stdout.decode()
    assert printed == "2 000000391895 ['a cat on a mat', 'un chat'] (2, 512)\n['dog', 'cat']\n"
    subprocess.run([sys.executable, "-c", streamed], cwd=tmp_path, check=True)
    compile(hugging_face, "docs/shards.md", "exec")  # `datasets` is not among our dependencies


def test_the_examples_are_the_golden_files(golden: Path) -> None:
    record, failure = blocks(FORMAT_MD, "json")
    assert record == (golden / "tar/shards/000000.json").read_text()
    assert failure == (golden / "tar/failures/000000.jsonl").read_text()
    content = (golden / "tar/shards/000000.tar").read_bytes()
    dump = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} +){16})", FORMAT_MD, re.MULTILINE)
    assert len(dump) == 14
    for offset, line in dump:
        assert content[int(offset, 16) :][:16] == bytes.fromhex(line)


def test_the_table_of_fields_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (float\d+|uint\d+) \| \[([^]]+)\] \| (optional)?", FORMAT_MD, re.MULTILINE)
    assert [(name, dtype, tuple(axes.split(", "))) for name, dtype, axes, _ in rows] == [
        (name, field.dtypes[0], field.axes) for name, field in FIELDS.items()
    ]
    assert tuple(name for name, *_, optional in rows if optional) == tuple(
        name for name in FIELDS if name in (*itertools.chain(*PAIRS), "object_boxes", "feature_scales")
    )
