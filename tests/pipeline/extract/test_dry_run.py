"""`--dry-run`: what it says is what a run then does, and it writes nothing."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vilbert.pipeline.errors import FingerprintError
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.shards.dataset import fingerprint_digest, read_dataset
from vilbert.pipeline.terminal import counted

from .conftest import BROKEN, SCENES, contents

Make = Callable[..., ExtractSettings]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_before_the_first_run(settings_for: Make, capsys: pytest.CaptureFixture[str], storage: str) -> None:
    settings = settings_for("dry", dry_run=True, format=storage)
    assert extract(settings) == 0
    assert not settings.output.exists()
    text = said(capsys)
    assert "5 shards of 5 rows, 22 rows" in text
    assert "done already: 0 shards, 0 rows" in text
    assert re.search(r"^time: 0:\d\d:\d\d$", text, re.MULTILINE)
    promised = float(re.search(r"([\d.]+) kB in all", text)[1]) * 1000
    assert extract(settings_for("dry", format=storage)) == 0
    assert read_dataset(settings.output).totals.bytes == pytest.approx(promised, rel=0.15)


def test_in_the_middle_of_one(settings_for: Make, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_for("half", shard_size=2)
    assert extract(settings) == 0
    (settings.output / "shards" / "000004.json").unlink()
    (settings.output / "shards" / "000005.json").unlink()
    before = contents(settings.output)
    assert extract(settings_for("half", shard_size=2, dry_run=True)) == 0
    assert contents(settings.output) == before
    text = said(capsys)
    assert f"done already: 9 shards, {SCENES - 4} rows" in text
    assert "to do: 2 shards, 4 rows" in text
    assert "by 9 finished shards" in text


def test_time_is_that_of_the_last_run(settings_for: Make, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_for("timed", shard_size=2)
    assert extract(settings) == 0
    (settings.output / "shards" / "000004.json").unlink()
    account = settings.output / ".run.json"
    left = json.loads(account.read_bytes())
    account.write_text(json.dumps({**left, "rows_before": 2, "rows_done": 22, "seconds": 200.0}))
    assert extract(settings_for("timed", shard_size=2, dry_run=True)) == 0
    text = said(capsys)
    assert "time: 0:00:20" in text
    assert "0.1 rows/s" in text
    account.unlink()
    assert extract(settings_for("timed", shard_size=2, dry_run=True)) == 0
    assert "rows measured with one worker here" in said(capsys)


def test_failed_rows_that_are_to_be_tried_again_are_counted(
    settings_for: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(settings_for("again")) == 0
    for reasons, rows in (((), len(BROKEN)), (("empty", "timeout"), 1)):
        assert extract(settings_for("again", dry_run=True, retry_failed=reasons)) == 0
        text = said(capsys)
        assert "to do: 0 shards, 0 rows" in text
        assert f"to try again: {counted(rows, 'failed row')}\n" in text + "\n"


def test_a_head_without_the_clusters_gpus_says_it_too(
    settings_for: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for("features", limit=10)
    assert extract(settings) == 0
    document = json.loads((settings.output / "dataset.json").read_bytes())
    document["fingerprint_fields"]["extractor"]["device"] = "cuda"
    del document["fingerprint_fields"]["cpus_per_worker"]
    document["fingerprint"] = fingerprint_digest(document["fingerprint_fields"])
    (settings.output / "dataset.json").write_text(json.dumps(document))
    on_gpus = replace(settings, detector=replace(settings.detector, device="cuda"), dry_run=True, backend="ray")
    assert extract(on_gpus) == 0
    assert "done already: 2 shards" in capsys.readouterr().out
    with pytest.raises(FingerprintError, match="device"):
        extract(replace(settings, dry_run=True))


def test_other_settings_are_refused_as_a_run_would(settings_for: Make) -> None:
    assert extract(settings_for("other", limit=5)) == 0
    with pytest.raises(FingerprintError, match="batch_size: 4 in the data set, 2"):
        extract(settings_for("other", limit=5, batch_size=2, dry_run=True))


def test_a_folder_of_other_things_is_refused(settings_for: Make) -> None:
    from vilbert.pipeline.errors import RefusedError

    settings = settings_for("taken", dry_run=True)
    Path(settings.output).mkdir()
    (settings.output / "thesis.tex").write_text("mine")
    with pytest.raises(RefusedError, match=r"holds thesis\.tex"):
        extract(settings)
