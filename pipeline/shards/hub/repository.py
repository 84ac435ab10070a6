"""A data set repository of the Hugging Face Hub: list files and commit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.shards.storage.verified import file_sha256
from vilbert.pipeline.terminal import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
_OWN_PULL_REQUESTS = "refs/pr/"
_REMEDY = {
    401: "the token is not valid: run `hf auth login`, or set HF_TOKEN",
    403: "the token may not do this: use one with write access to the owner's repositories (`hf auth login`)",
    404: "the repository or revision does not exist, or the token may not see it",
}
"""Remedies by HTTP status of the Hub's response."""


class StoredFile(NamedTuple):
    """A file of the repository."""

    bytes: int
    sha256: str | None
    """Hex digest of the content; None for files that Git stores directly (without LFS)."""
    git_oid: str
    """Git object id of the file."""


@dataclass(frozen=True)
class Repository:
    """One revision of a data set repository."""

    api: HfApi
    repo_id: str
    revision: str

    @classmethod
    def open(cls, repo_id: str, revision: str, *, private: bool) -> Repository:
        """Open a repository for writing. The repository and the branch are created if they do not exist.

        Raises:
            RefusedError: No write permission, or the repository is public but `private` is True.
            ShardError: The Hub cannot be reached.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        api = HfApi()
        with hub_errors(repo_id):
            try:
                found = api.repo_info(repo_id, repo_type="dataset")
            except RepositoryNotFoundError:
                api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            else:
                if private and not found.private:
                    raise RefusedError(
                        f"--repo-id {repo_id}: exists and is public; make it private on its settings page, or leave "
                        "out --private"
                    )
            if revision != MAIN and not revision.startswith(_OWN_PULL_REQUESTS):
                api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
        return cls(api, repo_id, revision)

    def files(self) -> dict[str, StoredFile]:
        """Return the files of the revision by name."""
        from huggingface_hub.hf_api import RepoFile

        with hub_errors(self.repo_id):
            tree = list(
                self.api.list_repo_tree(self.repo_id, repo_type="dataset", revision=self.revision, recursive=True)
            )
        return {
            item.path: StoredFile(item.size, item.lfs.sha256 if item.lfs is not None else None, item.blob_id)
            for item in tree
            if isinstance(item, RepoFile)
        }

    def commit(self, directory: Path, names: Sequence[str], message: str, *, delete: Sequence[str] = ()) -> None:
        """Upload files of a folder and delete others in one commit. Files that the Hub already has are not sent."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with hub_errors(self.repo_id):
            additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=directory / name) for name in names]
            deletions = [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in delete]
            self.api.create_commit(
                self.repo_id,
                [*deletions, *additions],
                repo_type="dataset",
                revision=self.revision,
                commit_message=message,
            )


def require_access(repo_id: str) -> None:
    """Raise RefusedError if an upload is impossible for a reason that is known without the network.

    The reasons are offline mode, a missing token, and a repository name that the Hub does not allow.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise RefusedError("HF_HUB_OFFLINE is set: unset it to upload to the Hugging Face Hub")
    if get_token() is None:
        raise RefusedError("no token for the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN")
    with hub_errors(repo_id):
        validate_repo_id(repo_id)


def is_stored(path: Path, stored: StoredFile | None, known: str | None) -> bool:
    """Return whether a file of the repository has the content of a local file.

    `known` is the hex SHA-256 of the local file, if available.
    """
    if stored is None or stored.bytes != path.stat().st_size:
        return False
    if stored.sha256 is not None:
        return stored.sha256 == (known or str(file_sha256(path)))
    data = path.read_bytes()
    return stored.git_oid == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Convert errors of the Hub and the network to RefusedError or ShardError, without the token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    bases: tuple[Any, ...] = HfHubHTTPError.__bases__  # classes of the HTTP library, which differs between versions
    try:
        yield
    except (OSError, ValueError, RuntimeError, *bases) as error:
        answer = next((cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)
        status = _status_of_xet(error) if answer is None else answer.response.status_code
        said = (answer.server_message if answer is not None else None) or str(error) or type(error).__name__
        said = one_line(said.strip().splitlines()[0])[:300] if said.strip() else type(error).__name__
        if token := get_token():
            said = said.replace(token, "…")
        if status in _REMEDY:
            raise RefusedError(f"--repo-id {repo_id}: {_REMEDY[status]} (the Hub says: {said})") from None
        if isinstance(error, ValueError) and answer is None:
            raise RefusedError(f"--repo-id {repo_id}: {said}") from None
        raise ShardError(f"{repo_id}: the upload failed ({said}); run the same command again to resume it") from None


def _status_of_xet(error: BaseException) -> int | None:
    """Return the HTTP status in the message of an hf_xet error, or None."""
    found = re.search(r"HTTP status \w+ error \((\d{3})\b", str(error))
    return int(found[1]) if found else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
