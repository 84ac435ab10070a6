"""MkDocs hook: publish Markdown files of the repository that lie outside docs/, and adapt the links to and from them.

The pages link to each other by paths in the repository, so that links work on a code host, too. Links to other files
of the repository, such as sources, are removed from the site; their text stays.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "pipeline/shards/FORMAT.md": "format.md",
}
"""Paths in the repository, and the paths below docs/ where the site has them."""
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the published files."""
    for path, page in PUBLISHED.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links by repository paths with links by paths of the site."""
    origin = {of_site: path for path, of_site in PUBLISHED.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def replace(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(origin).parent / match["target"])
        if not (ROOT / target).exists():
            raise PluginError(f"{origin}: links to {match['target']}, which does not exist")
        of_site = PUBLISHED.get(target, target.removeprefix("docs/"))
        if target not in PUBLISHED and not target.startswith("docs/"):
            return match["text"]
        start = PurePosixPath(page.file.src_uri).parent
        return f"[{match['text']}]({os.path.relpath(of_site, start)}{match['anchor'] or ''})"

    return LINK.sub(replace, markdown)
