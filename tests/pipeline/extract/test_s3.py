"""Output behind a URL: a real S3 server in its own process, and a proxy before it that fails as networks do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vilbert.extractors.extractor import DetectorSettings
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import LockedError, RefusedError, ShardError
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.shards.index.names import ROOT_NAMES
from vilbert.pipeline.shards.location import lease
from vilbert.pipeline.shards.location.folder import open_folder
from vilbert.pipeline.shards.location.lease import hold_lease
from vilbert.pipeline.shards.location.remote_folder import RemoteFolder

from .conftest import contents
from .s3_server import Proxy, objects

pytest.importorskip("s3fs")
pytest.importorskip("moto")
Make = Callable[..., ExtractSettings]


def on_a_disk(directory: Path) -> dict[str, bytes]:
    """Return the files of a data set on a disk that one behind a URL has, too: all but side files."""
    return {
        name: content
        for name, content in contents(directory).items()
        if name.partition("/")[0] not in ROOT_NAMES and not name.endswith(".idx")
    }


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that a run on a disk makes."""
    output = tmp_path_factory.mktemp("undisturbed") / "features"
    settings = ExtractSettings(
        manifest=manifest,
        output=output,
        detector=DetectorSettings(detector="shapes"),
        backend="local",
        shard_size=5,
        batch_size=4,
    )
    assert extract(settings) == 0
    return output


def test_the_objects_are_the_files_of_a_run_on_a_disk(
    bucket: str, proxy: Proxy, settings_for: Make, undisturbed: Path, tmp_path: Path
) -> None:
    settings = settings_for("unused", output=f"{bucket}/sets/features")
    assert extract(settings) == 0
    assert objects(f"{bucket}/sets/features") == on_a_disk(undisturbed)
    puts = [path.partition("?")[0].rpartition("/")[2] for method, path in proxy.requests if method == "PUT"]
    for shard in ("000000", "000004"):
        order = [puts.index(f"{shard}.{kind}") for kind in ("jsonl", "tar", "json")]
        assert order == sorted(order)
    assert not list(tmp_path.glob("vilbert-scratch-*/*/"))


def test_going_on_lists_once_and_reads_no_shard_and_no_record(
    bucket: str, proxy: Proxy, settings_for: Make, undisturbed: Path
) -> None:
    settings = settings_for("unused", output=f"{bucket}/features")
    assert extract(settings) == 0
    proxy.requests.clear()
    assert extract(settings) == 0
    assert proxy.count("PUT", "/shards/") == 0
    assert proxy.count("GET", ".tar") == proxy.count("GET", "/shards/") == 0
    assert proxy.count("GET", "prefix=features%2Fshards") + proxy.count("GET", "prefix=features/shards") == 1


def test_lost_and_cut_objects_are_made_again_with_the_same_bytes(
    bucket: str, settings_for: Make, undisturbed: Path
) -> None:
    import s3fs

    url = f"{bucket}/features"
    settings = settings_for("unused", output=url)
    assert extract(settings) == 0
    files, root = s3fs.S3FileSystem(), url.removeprefix("s3://")
    files.rm_file(f"{root}/shards/000000.json")
    files.rm_file(f"{root}/shards/000001.tar")
    files.pipe_file(f"{root}/shards/000002.tar", b"cut")
    files.rm_file(f"{root}/failures/000004.jsonl")
    assert extract(settings) == 0
    assert objects(url) == on_a_disk(undisturbed)


def test_without_its_notes_a_run_goes_on_from_the_records(
    bucket: str, proxy: Proxy, settings_for: Make, undisturbed: Path
) -> None:
    import s3fs

    url = f"{bucket}/features"
    settings = settings_for("unused", output=url)
    assert extract(settings) == 0
    s3fs.S3FileSystem().rm_file(f"{url}/.done.npy")
    s3fs.S3FileSystem().pipe_file(f"{url}/shards/000003.json", b"{}")
    proxy.requests.clear()
    assert extract(settings) == 0
    assert proxy.count("GET", ".tar") == 0
    assert proxy.count("PUT", ".tar") == 1
    assert objects(url) == on_a_disk(undisturbed)


@pytest.mark.slow
def test_lmdb_too(bucket: str, settings_for: Make) -> None:
    local = settings_for("lmdb", format="lmdb")
    assert extract(local) == 0
    assert extract(settings_for("unused", format="lmdb", output=f"{bucket}/features")) == 0
    assert objects(f"{bucket}/features") == on_a_disk(local.output)


@pytest.mark.ray
@pytest.mark.slow
def test_with_ray_too(bucket: str, settings_for: Make, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # its sockets' paths have to be short
    assert extract(settings_for("unused", backend="ray", workers=2, output=f"{bucket}/features")) == 0
    assert objects(f"{bucket}/features") == on_a_disk(undisturbed)


@pytest.mark.parametrize("how", ["error", pytest.param("cut", marks=pytest.mark.slow)])
def test_errors_that_pass_are_waited_out(
    bucket: str, proxy: Proxy, settings_for: Make, undisturbed: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{bucket}/features"
    faults = [proxy.fail("PUT", name, 2, how) for name in ("000001.tar", "000002.json?", "000003.jsonl")]
    faults += [proxy.fail("GET", "list-type", 1, "error"), proxy.fail("PUT", ".lease", 1, "error")]
    assert extract(settings_for("unused", output=url)) == 0
    assert [fault.times for fault in faults if "?" not in fault.part] == [0] * 4
    assert "trying again, 2 of 6" in caplog.text
    assert objects(url) == on_a_disk(undisturbed)


@pytest.mark.slow
def test_errors_that_stay_end_the_run_and_leave_no_shard_that_counts(
    bucket: str, proxy: Proxy, settings_for: Make, undisturbed: Path
) -> None:
    url = f"{bucket}/features"
    proxy.fail("PUT", "000002.tar", 1 << 30, "cut")
    with pytest.raises(ShardError, match=r"uploading s3://.*/shards/000002\.tar failed 6 times.*run the same command"):
        extract(settings_for("unused", output=url))
    assert not {"shards/000002.tar", "shards/000002.json"} & objects(url).keys()
    proxy.faults.clear()
    assert extract(settings_for("unused", output=url)) == 0
    assert objects(url) == on_a_disk(undisturbed)


def test_a_large_upload_goes_in_parts_and_one_cut_between_them_leaves_nothing(
    bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs.core

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda size, chunksize=None: 5 << 20)
    content = os.urandom(12 << 20)
    for name in ("failures/000000.jsonl", "shards/000000.tar", "shards/000000.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if name.endswith("tar") else b"{}")
    folder = RemoteFolder(f"{bucket}/features")
    names = ["failures/000000.jsonl", "shards/000000.tar", "shards/000000.json"]
    second_part = proxy.fail("PUT", "partNumber=2", 1 << 30, "cut")
    with pytest.raises(ShardError, match=r"000000\.tar failed 6 times"):
        folder.publish(tmp_path, names)
    assert second_part.met.is_set()
    assert objects(f"{bucket}/features") == {"failures/000000.jsonl": b"{}"}
    assert s3fs.S3FileSystem().call_s3("list_multipart_uploads", Bucket=bucket[5:]).get("Uploads", []) == []
    second_part.times = 2
    folder.publish(tmp_path, names)
    assert objects(f"{bucket}/features")["shards/000000.tar"] == content
    assert proxy.count("POST", "uploadId=") >= 1  # the parts were joined


EXTRACT = """
import sys
from vilbert.pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["000001.tar", "000002.json"])
def test_killed_within_an_upload_and_run_again_the_bytes_are_the_same(
    bucket: str, proxy: Proxy, manifest: Path, undisturbed: Path, file: str
) -> None:
    url = f"{bucket}/features"
    arguments = ["extract", str(manifest), "--output", url, "--detector", "shapes", "--backend", "local"]
    arguments += ["--shard-size", "5", "--batch-size", "4"]
    stalled = proxy.fail("PUT", f"/{file}", 1, "stall")
    process = subprocess.Popen([sys.executable, "-c", EXTRACT, *arguments], stderr=subprocess.PIPE)
    met = stalled.met.wait(60)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert met, said.decode()
    assert not any(name.endswith(file) for name in objects(url))
    began = time.monotonic()
    assert main(arguments) == 0
    assert time.monotonic() - began < lease.PATIENCE_SECONDS  # the dead process of this machine is known to be dead
    assert objects(url) == on_a_disk(undisturbed)


def test_a_second_driver_is_refused_while_the_first_lives(
    bucket: str, settings_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 5.0)
    folder = open_folder(f"{bucket}/features")
    with folder.exclusive_writer():
        before = objects(f"{bucket}/features")
        with pytest.raises(LockedError, match=f"process {os.getpid()} on .* is writing here"):
            extract(settings_for("unused", output=f"{bucket}/features"))
        assert objects(f"{bucket}/features") == before
    assert extract(settings_for("unused", output=f"{bucket}/features", limit=5)) == 0  # it was given back


def test_of_several_who_begin_at_once_one_gets_the_lease(bucket: str) -> None:
    folder = RemoteFolder(f"{bucket}/features")
    start, stay, outcomes = threading.Barrier(4), threading.Event(), []

    def attempt() -> None:
        start.wait()
        try:
            with hold_lease(folder):
                outcomes.append("held")
                stay.wait(30)
        except LockedError:
            outcomes.append("refused")
            if outcomes.count("refused") == 3:
                stay.set()

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "BEAT_SECONDS", 0.1)
        patch.setattr(lease, "PATIENCE_SECONDS", 5.0)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["held", "refused", "refused", "refused"]


def test_what_cannot_be_written_to_is_refused_at_the_start(
    bucket: str, settings_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match="cannot write to a web server"):
        extract(settings_for("unused", output="https://example.org/features"))
    with pytest.raises(RefusedError, match="fsspec cannot open it"):
        extract(settings_for("unused", output="nonsense://features"))
    with pytest.raises(RefusedError, match="check that the bucket exists"):
        extract(settings_for("unused", output="s3://no-such-bucket-here/features"))
    import s3fs

    s3fs.S3FileSystem().pipe_file(f"{bucket}/taken/thesis.tex", b"mine")
    with pytest.raises(RefusedError, match=r"holds thesis\.tex but no dataset\.json"):
        extract(settings_for("unused", output=f"{bucket}/taken"))
    assert objects(f"{bucket}/taken") == {"thesis.tex": b"mine"}
