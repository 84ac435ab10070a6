"""What metrics.jsonl says of speed, and what `--profile` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vilbert.model.config import ViLBertConfig
from vilbert.pipeline.cli import main
from vilbert.pipeline.train.engine.throughput import PEAK_TFLOPS, Throughput, peak_tflops, positions, step_flops
from vilbert.pipeline.train.run.journal import read_journal

from ..tiny_runs import MODEL, arguments, two_sets


class Part:
    """A micro-batch of two captions and their images, one of each with padding."""

    input_ids = torch.zeros((2, 5), dtype=torch.int64)
    attention_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    region_mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    features = torch.zeros((2, 3, 8))
    image_ids = ("a", "b")
    unread = 0

    def pin_memory(self) -> Part:
        return self


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    return two_sets(tmp_path_factory.mktemp("throughput"), make_dataset)


def test_padding_is_not_counted_and_each_image_has_a_global_region() -> None:
    assert positions(Part()) == (8, 4 + 2)


def test_operations_grow_with_positions_and_a_backward_pass_costs_two_forward_passes() -> None:
    config = ViLBertConfig(**{**MODEL, "vocab_size": 30, "v_feature_size": 8})
    twice = Part()
    twice.attention_mask = torch.ones((2, 5), dtype=torch.int64)
    assert 0 < step_flops(config, Part()) < step_flops(config, twice)
    assert step_flops(config, Part()) % 3 == 0


def test_the_share_of_the_peak_is_operations_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ViLBertConfig(**{**MODEL, "vocab_size": 30, "v_feature_size": 8})
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    speed = Throughput(10, config=config, device=torch.device("cpu"), world=2, peak=1e-6)
    speed.fetch(iter([[Part(), Part()]]))
    now[0] = 3.0
    with speed.paused():  # an evaluation of 100 seconds
        now[0] = 103.0
    now[0] = 104.0
    figures = speed.lap(18)
    assert figures["samples_per_second"] == 2.0
    assert figures["samples_per_second_per_device"] == 1.0
    assert figures["tokens_per_second_per_device"] == 2 * 14 / 4
    assert figures["mfu"] == pytest.approx(2 * step_flops(config, Part()) / 4 / 1e6)
    assert figures["memory_bytes"] > 1e6


def test_a_gpu_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "NVIDIA H200": "H200", "NVIDIA H200 NVL": "H200 NVL", "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA A100 80GB PCIe": "A100", "NVIDIA H100 80GB HBM3": "H100", "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA H100 NVL": "H100 NVL", "NVIDIA L4": "L4", "NVIDIA L40S": "L40S", "NVIDIA B200": "B200",
        "AMD Instinct MI300X": "MI300X", "Tesla V100-PCIE-32GB": "V100", "NVIDIA GeForce GTX 1080": None,
    }  # fmt: skip
    for name, known in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops(torch.device("cuda"), "bf16") == (PEAK_TFLOPS[known]["bf16"] if known else None)
    assert peak_tflops(torch.device("cpu"), "fp32") is None


def test_the_peak_of_fp32_is_that_of_tf32() -> None:
    """Tensor cores do half as many operations in TF32 as in bfloat16; a V100 has no TF32."""
    for name, peak in PEAK_TFLOPS.items():
        assert name == "V100" or peak["fp32"] == pytest.approx(peak["bf16"] / 2, rel=0.02)


def test_a_run_writes_speed_and_a_profile_and_learns_the_same(data: Path, tmp_path: Path) -> None:
    assert main([*arguments(data, tmp_path / "run"), "--profile", "2", "--peak-tflops", "0.1"]) == 0
    trains = [entry for entry in read_journal(tmp_path / "run") if entry["kind"] == "train"]
    assert all(0 < entry["mfu"] < 1 and entry["tokens_per_second_per_device"] > 0 for entry in trains)
    trace = json.loads((tmp_path / "run/profile/trace-0.json").read_text())
    steps = {event["name"] for event in trace["traceEvents"] if str(event.get("name", "")).startswith("ProfilerStep")}
    assert len(steps) == 2
    assert "Self CPU" in (tmp_path / "run/profile/table-0.txt").read_text()

    assert main(arguments(data, tmp_path / "plain")) == 0
    losses = [[e["loss"] for e in read_journal(tmp_path / name) if e["kind"] == "train"] for name in ("run", "plain")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "plain/profile").exists()
