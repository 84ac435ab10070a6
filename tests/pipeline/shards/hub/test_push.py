"""`vilbert push` against a server that answers as the Hub does."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.hub.files import in_commits
from vilbert.pipeline.shards.index.write import index_dataset
from vilbert.pipeline.shards.location.folder import LocalFolder

from .fake_hub import TOKEN, FakeHub, XetFile, serve, sha256_of, size_of

MakeDataset = Callable[..., Any]
REPO = "someone/features"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def data(make_dataset: MakeDataset, tmp_path: Path) -> Any:
    """A data set with side files, a column, and files that are no part of it."""
    made = make_dataset(failed={})
    folder = LocalFolder(made.directory)
    np.save(tmp_path / "score.npy", np.arange(10.0))
    (tmp_path / "ids.txt").write_text("\n".join(f"photo.{row:03}" for row in range(10)))
    values = open_values(tmp_path / "score.npy", ids=tmp_path / "ids.txt", id_column="image_id", value_column=None)
    add_column(folder, "score", values, missing="error")
    index_dataset(folder)
    (made.directory / ".lock").write_text("process 1 on a-machine")
    (made.directory / "run.json").write_text("{}")
    return made


def local_files(directory: Path) -> dict[str, bytes]:
    left_here = {".lock", "run.json"}
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in left_here
    }


def push(data: Any, *options: str) -> int:
    return main(["push", str(data.directory), "--repo-id", REPO, *options])


def test_all_files_arrive_and_dataset_json_is_last(hub: FakeHub, data: Any, tmp_path: Path) -> None:
    assert push(data) == 0
    assert hub.files(REPO) == local_files(data.directory)
    assert set(hub.commits[-1]) == {"README.md", "index.parquet", "dataset.json"}
    assert not hub.repositories[REPO]["private"]
    for name, content in hub.files(REPO).items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    assert examine(tmp_path / "copy", deep=True).findings == ()


def test_a_second_push_sends_nothing(hub: FakeHub, data: Any) -> None:
    assert push(data) == 0
    puts, commits = list(hub.puts), len(hub.commits)
    assert push(data) == 0
    assert (hub.puts, len(hub.commits)) == (puts, commits)
    card = data.directory / "README.md"
    card.write_bytes(card.read_bytes() + b"\nMine.\n")
    assert push(data) == 0
    assert hub.commits[commits:] == [["README.md"]]


@pytest.fixture
def xet(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    """The Hub, to which huggingface_hub uploads by the Xet protocol."""
    pytest.importorskip("hf_xet", reason="pip install hf_xet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    for name in ("HF_HOME", "HF_XET_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return hub


def test_files_arrive_by_xet_where_it_is_installed(xet: FakeHub, data: Any) -> None:
    assert push(data) == 0
    expected = local_files(data.directory)
    assert {name: (size_of(it), sha256_of(it)) for name, it in xet.files(REPO).items()} == {
        name: (len(it), hashlib.sha256(it).hexdigest()) for name, it in expected.items()
    }
    assert any(isinstance(it, XetFile) for it in xet.files(REPO).values())
    assert not xet.puts
    assert set(xet.commits[-1]) == {"README.md", "index.parquet", "dataset.json"}
    blocks, commits = list(xet.xet_blocks), len(xet.commits)
    assert push(data) == 0
    assert (xet.xet_blocks, len(xet.commits)) == (blocks, commits)


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [((403, "Forbidden"), 2, "write access"), ((410, "Gone"), 1, "run the same command again")],
)
def test_what_the_hub_refuses_by_xet_is_a_message(
    xet: FakeHub, data: Any, capfd: pytest.CaptureFixture[str], answer: Any, status: int, message: str
) -> None:
    xet.deny = {"xet-write-token": answer}
    assert push(data) == status
    said = capfd.readouterr().err
    assert message in said
    assert TOKEN not in said
    assert "Traceback" not in said
    assert "dataset.json" not in xet.files(REPO)


def test_a_killed_push_is_resumed(hub: FakeHub, data: Any) -> None:
    hub.put_gate = threading.Event()
    command = [sys.executable, "-m", "vilbert.pipeline.cli", "push", str(data.directory), "--repo-id", REPO]
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert hub.waiting.wait(60)
        process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        assert TOKEN not in process.stderr.read()
    assert len(hub.puts) == 1
    assert not hub.files(REPO)  # nothing was committed, so nobody takes it for a data set
    hub.put_gate.set()
    hub.put_gate = None
    assert push(data) == 0
    assert hub.files(REPO) == local_files(data.directory)
    assert len(set(hub.puts)) == len(hub.puts), "what arrived before the kill was sent again"


def test_private_and_revision(hub: FakeHub, data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(data, "--private", "--revision", "v2") == 0
    assert hub.repositories[REPO]["private"]
    assert hub.files(REPO) == {}
    assert hub.files(REPO, "v2") == local_files(data.directory)
    hub.repositories[REPO]["private"] = False
    assert push(data, "--private") == 2
    assert "is public" in capsys.readouterr().err


def test_another_data_set_is_replaced_only_when_asked(
    hub: FakeHub, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(REPO, **{"dataset.json": b"{}", "shards/000099.tar": b"old", "README.md": b"old"})
    assert push(data) == 2
    assert "--replace" in capsys.readouterr().err
    assert hub.commits == []
    assert push(data, "--replace") == 0
    assert hub.files(REPO) == local_files(data.directory)
    assert hub.commits[0] == ["dataset.json", "shards/000099.tar"]  # before anything of the new one arrives


def test_a_damaged_or_unfinished_data_set_is_refused(hub: FakeHub, data: Any) -> None:
    shard = data.data_file()
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    assert push(data) == 1
    (data.directory / "columns" / "score" / "column.json").unlink()
    assert push(data, "--no-deep") == 1
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("deny", "status", "message"),
    [
        ({"create": (403, f"You ({TOKEN}) may not create it")}, 2, "write access"),
        ({"commit": (403, "Forbidden: pass a token with write access")}, 2, "write access"),
        ({"preupload": (418, "I am a teapot")}, 1, "run the same command again"),
        ({"create": (401, "Invalid token")}, 2, "hf auth login"),
    ],
)
def test_what_the_hub_refuses_is_a_message(
    hub: FakeHub, data: Any, capfd: pytest.CaptureFixture[str], deny: Any, status: int, message: str
) -> None:
    hub.deny = deny
    assert push(data) == status
    said = capfd.readouterr().err
    assert message in said
    assert REPO in said
    assert TOKEN not in said
    assert "Traceback" not in said


def test_without_a_token_or_a_network(
    hub: FakeHub, data: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    with pytest.raises(SystemExit, match="2"):
        main(["push", str(data.directory), "--repo-id", "one-word"])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert push(data) == 1
    assert "resume" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(data) == 2
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    assert push(data) == 2
    assert "hf auth login" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../features", "someone/features.git", "someone/-features", "someone/" + "f" * 200])
def test_names_that_the_hub_does_not_allow_are_refused_before_the_data_set_is_read(
    hub: FakeHub, data: Any, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (data.directory / "dataset.json").write_text("damaged")
    assert main(["push", str(data.directory), "--repo-id", name]) == 2
    assert f"--repo-id {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("revision", ["", "a b", "a/../b", "a\nb", "/main"])
def test_revisions_that_are_no_branch_are_usage_errors(hub: FakeHub, data: Any, revision: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        push(data, "--revision", revision)
    assert hub.repositories == {}


def test_commits_are_bounded() -> None:
    sizes = {f"shards/{shard:06}.tar": 1 << 30 for shard in range(9)} | {"dataset.json": 1, "README.md": 1}
    groups = list(in_commits(sizes))
    assert [len(group) for group in groups] == [4, 4, 1, 2]
    assert sorted(name for group in groups for name in group) == sorted(sizes)
    assert [len(group) for group in in_commits({f"{at}": 1 for at in range(450)})] == [200, 200, 50]
