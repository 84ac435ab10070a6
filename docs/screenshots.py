"""Screenshots of the pages of `vilbert browse` for the README: `make screenshots` after `make demo`.

Writes docs/images/browse-NAME.png with Chromium, driven by Playwright, each reduced to 256 colours.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).parent / "images"
QUESTION = "/0/sample/8?asked=1&question=what+color+is+the+triangle%3F"
PAGES = {
    "photographs": "/0/?caption=pink&sort=-boxes",
    "sample": "/0/sample/8",
    "similar": "/0/similar/8/2",
    "statistics": "/0/statistics#charts",
    "ask": f"{QUESTION}#ask",
}
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}


def main() -> int:
    """Start `vilbert browse` on the demo, and photograph its pages."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="the folder that `vilbert demo` wrote")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "vilbert.pipeline.cli", "browse", str(options.demo / "features")]
    with subprocess.Popen(  # noqa: S603  # our own command
        [*command, "--checkpoint", str(options.demo / "vqa")], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split("/ ")[0]
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
                for name, path in PAGES.items():
                    shoot(browser, f"{address}{path}", f"browse-{name}", WIDE, "light")
                shoot(browser, f"{address}{PAGES['photographs']}", "browse-phone", PHONE, "dark")
                browser.close()
        finally:
            server.terminate()
    return 0


def shoot(browser: Any, url: str, name: str, size: dict[str, int], scheme: str) -> None:
    """Write one screenshot."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE).save(IMAGES / f"{name}.png", optimize=True)
    context.close()


if __name__ == "__main__":
    sys.exit(main())
