"""`vilbert report`: write an HTML page about a fine-tuned model, for every task."""

from __future__ import annotations

from vilbert.pipeline.report.settings import ReportSettings

__all__ = ["ReportSettings", "report"]


def report(settings: ReportSettings) -> int:
    """Write the page; return 0."""
    from vilbert.pipeline.report.content import read_content
    from vilbert.pipeline.report.page import report_page
    from vilbert.pipeline.shards.storage.atomic import write_atomic
    from vilbert.pipeline.train.run.disk import explain_disk_errors

    page = report_page(read_content(settings)).encode()
    with explain_disk_errors(settings.output):
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(settings.output, page)
    print(f"{settings.output}: {len(page) / 1e6:.1f} MB; open it in a browser")
    return 0
