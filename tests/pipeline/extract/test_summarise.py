"""What a run says last."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vilbert.pipeline.extract.job import summarise
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.shards.dataset import Totals, read_info
from vilbert.pipeline.shards.location.folder import open_folder


@pytest.mark.parametrize(("count", "said"), [(1, "1 image is at"), (3, "3 images are at")])
def test_private_addresses_come_with_the_command_that_fetches_them(
    count: int, said: str, golden: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = read_info(open_folder(golden / "tar"))
    settings = ExtractSettings(manifest=Path("m.parquet"), output=Path("o"))
    refused = dataclasses.replace(info, totals=Totals(samples=2, failures={"private_address": count}, bytes=10))
    assert summarise(settings, refused) == 0
    assert said in caplog.text
    assert "--allow-private-addresses --retry-failed private_address" in caplog.text
    caplog.clear()
    assert summarise(settings, dataclasses.replace(info, totals=Totals(samples=2, failures={}, bytes=10))) == 0
    assert "private" not in caplog.text
