"""An image that kills its process, or makes it hang: it is found, left out, and costs no other image anything."""

import json
import signal
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.storage.store import open_shard

from .conftest import BROKEN, SCENES, Harm, contents

POISON = 7


def arguments(manifest: Path, output: Path | str, *options: str) -> list[str]:
    # One shape of image, so batches of four: 5-6-7-8 are in the detector together.
    return [
        str(manifest), "--output", str(output), "--detector", "shapes", "--shard-size", "15", "--batch-size", "4",
        *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def without_poison(images: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that comes out where the image is no image at all: its neighbours are in the same batches."""
    folder = tmp_path_factory.mktemp("without")
    poison = images / f"scene{POISON:02d}.png"
    data = poison.read_bytes()
    poison.write_bytes(b"")
    try:
        assert main(["extract", *arguments(manifest, folder / "features", "--backend", "local")]) == 0
    finally:
        poison.write_bytes(data)
    return folder / "features"


def failures(output: Path) -> dict[int, str]:
    lines = [line for path in sorted((output / "failures").iterdir()) for line in path.read_text().splitlines()]
    return {row["row"]: row["reason"] for row in map(json.loads, lines)}


def assert_neighbours_are_kept(output: Path, without_poison: Path, reason: str) -> None:
    assert failures(output) == {**failures(without_poison), POISON: reason}
    for shard in ("000000.tar", "000001.tar"):
        assert (output / "shards" / shard).read_bytes() == (without_poison / "shards" / shard).read_bytes()
    assert not list(output.rglob("*.journal"))
    assert main(["verify", str(output), "--deep"]) == 0


def run_until_done(harm: Harm, command: list[str]) -> list[int]:
    """Run the command again and again until it ends well; return its exit statuses."""
    statuses = []
    while not statuses or statuses[-1] != 0:
        statuses.append(harm.run(*command)[0])
        assert len(statuses) < 8
    return statuses


@pytest.mark.parametrize(
    ("place", "deed", "status"),
    [
        ("decode", "kill", -signal.SIGKILL),
        pytest.param("detect", "segfault", -signal.SIGSEGV, marks=pytest.mark.slow),
        pytest.param("detect", "lose the gpu", 1, marks=pytest.mark.slow),
    ],
)
def test_run_three_times_the_fourth_leaves_the_image_out(
    harm: Harm, manifest: Path, without_poison: Path, tmp_path: Path, place: str, deed: str, status: int
) -> None:
    harm.by(POISON, place, deed)
    output = tmp_path / "features"
    command = arguments(manifest, output, "--backend", "local", "--cpus-per-worker", "1")
    assert run_until_done(harm, command) == [status] * 3 + [0]
    assert harm.done() == [f"{place} {deed}"] * 3
    assert_neighbours_are_kept(output, without_poison, "crash")


@pytest.mark.slow
def test_behind_a_url_it_takes_one_run_more_and_nothing_of_the_machine_that_died(
    harm: Harm, manifest: Path, without_poison: Path, tmp_path: Path
) -> None:
    harm.by(POISON, "decode", "kill")
    output = tmp_path / "features"
    command = arguments(manifest, f"local://{output}", "--backend", "local", "--cpus-per-worker", "1")
    assert run_until_done(harm, command) == [-signal.SIGKILL] * 4 + [0]
    assert_neighbours_are_kept(output, without_poison, "crash")


@pytest.mark.slow
def test_two_images_that_kill_are_both_found_with_threads_that_decode_ahead(
    harm: Harm, images: Path, manifest: Path, tmp_path: Path
) -> None:
    harm.by(5, "decode", "kill")
    harm.by(POISON, "decode", "segfault")
    output = tmp_path / "features"
    command = arguments(manifest, output, "--backend", "local", "--cpus-per-worker", "4")
    statuses = run_until_done(harm, command)
    assert len(statuses) <= 7
    assert failures(output) == {3: "empty", 5: "crash", POISON: "crash", 11: "not_an_image", 21: "missing_file"}


def test_a_batch_that_only_kills_together_goes_through_one_by_one_and_loses_nobody(
    harm: Harm, manifest: Path, tmp_path: Path
) -> None:
    harm.by(POISON, "detect", "kill in company")
    output = tmp_path / "features"
    statuses = run_until_done(harm, arguments(manifest, output, "--backend", "local", "--limit", "15"))
    assert statuses == [-signal.SIGKILL] * 2 + [0]
    assert failures(output) == {3: "empty", 11: "not_an_image"}
    with open_shard(output / "shards" / "000000.tar") as reader:
        assert len(reader) == 13


@pytest.mark.slow
def test_an_image_that_hangs_is_left_out_in_one_go_and_the_command_ends(
    harm: Harm, manifest: Path, without_poison: Path, tmp_path: Path
) -> None:
    harm.by(POISON, "decode", "hang")
    output = tmp_path / "features"
    status, messages = harm.run(*arguments(manifest, output, "--backend", "local", "--stall-seconds", "2"))
    assert status == 0, messages
    for attempt in (1, 2, 3):
        assert f"shard 0, attempt {attempt}: its worker was lost (it made no progress)" in messages
    assert f"skipped and recorded as failures: row {POISON} (hang)" in messages
    assert_neighbours_are_kept(output, without_poison, "hang")


@pytest.mark.parametrize("deed", ["out of memory in company", "out of memory"])
def test_a_batch_too_large_for_the_memory_is_halved_down_to_one_image(
    harm: Harm, manifest: Path, without_poison: Path, tmp_path: Path, deed: str
) -> None:
    harm.by(POISON, "detect", deed)
    output = tmp_path / "features"
    command = arguments(manifest, output, "--backend", "local")
    assert harm.run(*command)[0] == 0
    if deed == "out of memory":
        assert failures(output) == {**failures(without_poison), POISON: "out_of_memory"}
        assert (output / "shards" / "000000.tar").read_bytes() == (
            without_poison / "shards" / "000000.tar"
        ).read_bytes()
    else:
        undisturbed = tmp_path / "undisturbed"
        assert main(["extract", *arguments(manifest, undisturbed, "--backend", "local")]) == 0
        assert contents(output) == contents(undisturbed)
        assert len(failures(output)) == len(BROKEN) < SCENES


@pytest.mark.ray
@pytest.mark.slow
def test_with_ray_one_command_finds_an_image_that_hangs_and_one_that_kills(
    harm: Harm, manifest: Path, without_poison: Path, tmp_path: Path
) -> None:
    harm.by(POISON, "detect", "hang with the interpreter")
    harm.by(17, "decode", "segfault")
    output = tmp_path / "features"
    status, messages = harm.run(*arguments(manifest, output, "--workers", "2", "--stall-seconds", "3"))
    assert status == 0, messages
    assert sorted(harm.done()) == ["decode segfault"] * 3 + ["detect hang with the interpreter"] * 3
    assert failures(output) == {**failures(without_poison), POISON: "hang", 17: "crash"}
    first = Path("shards", "000000.tar")
    assert (output / first).read_bytes() == (without_poison / first).read_bytes()
    assert main(["verify", str(output), "--deep"]) == 0
