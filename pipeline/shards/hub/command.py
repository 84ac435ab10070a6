"""`vilbert push`: upload a data set to the Hugging Face Hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import read_info
from vilbert.pipeline.shards.hub.files import in_commits, known_digests, published_files
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import DATASET_FILE
from vilbert.pipeline.terminal import counted
from vilbert.settings import validated

if TYPE_CHECKING:
    from vilbert.pipeline.shards.hub.repository import StoredFile

logger = logging.getLogger(__name__)
OF_THE_HUB = {".gitattributes"}
"""Files that the Hub writes into each repository."""


@validated
class PushSettings:
    """Upload a verified data set with its side files and columns to the Hugging Face Hub.

    The token is that of `hf auth login` or HF_TOKEN. Run the same command again after any interruption: files that the
    repository has already are not uploaded again.
    """

    directory: Positional[Path]
    """Folder of the data set."""
    repo_id: str
    """OWNER/NAME of the data set repository; it is created if it does not exist."""
    private: bool = False
    """Create a private repository; an existing public one is refused."""
    revision: str = "main"
    """Branch, created from main if it does not exist, or refs/pr/N."""
    replace: bool = False
    """Replace another data set in the repository: files that this one does not have are deleted."""
    deep: bool = True
    """Read and hash every byte before the upload, as `vilbert verify --deep` does."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo_id, re.ASCII):
            raise ValueError(f"--repo-id {self.repo_id}: give OWNER/NAME, as in my-name/my-features")
        if not re.fullmatch(r"\w[\w./-]*", self.revision) or ".." in self.revision:
            raise ValueError(f"--revision {self.revision!r:.80}: give the name of a branch, or refs/pr/N")


def push(settings: PushSettings) -> int:
    """Upload the missing files and return 0, or 1 if the data set has problems.

    Raises:
        RefusedError: The Hub or the state of the repository does not allow the upload.
        ShardError: The upload failed.
    """
    from vilbert.pipeline.shards.hub.repository import Repository, require_access

    require_access(settings.repo_id)  # verification may take hours
    folder = LocalFolder(settings.directory)
    info = read_info(folder)
    if not info.complete:
        raise RefusedError(f"{folder.name}: is not complete; run the command that writes it again until it is")
    if findings := examine(settings.directory, deep=settings.deep).findings:
        for finding in findings:
            logger.error("%s", finding)
        logger.error("%s: has problems, nothing was uploaded", folder.name)
        return 1
    sizes = published_files(folder)
    repository = Repository.open(settings.repo_id, settings.revision, private=settings.private)
    stored = repository.files()
    stale = stale_files(folder, settings.repo_id, stored, sizes, replace=settings.replace)
    missing = missing_files(folder, stored, sizes)
    logger.info("%s: %s, %s to upload", settings.repo_id, counted(len(sizes), "file"), counted(len(missing), "file"))
    if stale:
        repository.commit(folder.path, [], "Delete files of another data set", delete=stale)
    done = 0
    for names in in_commits(missing):
        repository.commit(folder.path, names, f"Upload {counted(len(names), 'file')} of {info.records_sha256:.16}")
        done += len(names)
        logger.info("%s: %d of %d files are uploaded", settings.repo_id, done, len(missing))
    if left := missing_files(folder, repository.files(), sizes):
        raise ShardError(
            f"{settings.repo_id}: rejected {counted(len(left), 'file')} ({', '.join(list(left)[:3])}); check its "
            ".gitignore, then run the same command again"
        )
    logger.info("%s has the whole data set; revision %s", settings.repo_id, settings.revision)
    return 0


def missing_files(folder: LocalFolder, stored: dict[str, StoredFile], sizes: dict[str, int]) -> dict[str, int]:
    """Return the sizes of the files that are missing in the repository or differ there."""
    from vilbert.pipeline.shards.hub.repository import is_stored

    known = known_digests(folder)
    return {
        name: size
        for name, size in sizes.items()
        if not is_stored(folder.path / name, stored.get(name), known.get(name))
    }


def stale_files(
    folder: LocalFolder, repo_id: str, stored: dict[str, StoredFile], sizes: dict[str, int], *, replace: bool
) -> list[str]:
    """Return the files of the repository to delete before the upload, beginning with another data set's dataset.json.

    Raises:
        RefusedError: There are such files, and `replace` is False.
    """
    from vilbert.pipeline.shards.hub.repository import is_stored

    strangers = sorted(set(stored) - set(sizes) - OF_THE_HUB)
    other = DATASET_FILE in stored and not is_stored(folder.path / DATASET_FILE, stored[DATASET_FILE], None)
    if (strangers or other) and not replace:
        what = "holds another data set" if other else f"holds other files ({', '.join(strangers[:3])})"
        raise RefusedError(
            f"--repo-id {repo_id}: {what}; choose another repository, or give --replace to delete what does "
            "not belong to this data set"
        )
    return [*([DATASET_FILE] if other else []), *strangers]
