"""A page in a real browser: it fits narrow and wide windows, in light and dark, without errors."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.pipeline.page.made_runs import make_run
from torchrl_drpo.pipeline.page.command import page_beside

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
#: Says how far the page is wider than its window, whether it is dark, and what went wrong.
PROBE = """<script>
const wrong = [];
addEventListener("error", e => wrong.push(e.message), true);
addEventListener("load", () => {
  const root = document.documentElement, out = document.createElement("output");
  const small = [...document.querySelectorAll("svg text")].map(
    t => t.getBoundingClientRect().height).filter(h => h > 0);
  out.textContent = [root.scrollWidth - root.clientWidth, root.clientWidth,
    matchMedia("(prefers-color-scheme: dark)").matches, Math.min(...small), wrong.length].join();
  document.body.append(out);
});
</script>"""
#: Of Blink's PreferredColorScheme.
SCHEMES = {"dark": 0, "light": 1}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser is installed")


def browse(page: Path, width: int, scheme: str, *options: str) -> str:
    found = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            f"--window-size={width},900",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in found.stderr, found.stderr
    return found.stdout


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_fits_and_is_readable(tmp_path: Path, scheme: str) -> None:
    folder = make_run(tmp_path / "run")
    page_beside(folder)
    text = (folder / "report.html").read_text()
    # A browser's own window may be no narrower than some 500 pixels: a frame may.
    inner = tmp_path / "probed.html"
    inner.write_text(text.replace("</head>", PROBE + "</head>"))
    for width in (400, 1200):
        frame = tmp_path / "frame.html"
        source = inner.read_text().replace("&", "&amp;").replace('"', "&quot;")
        frame.write_text(
            f'<!doctype html><body style="margin:0"><iframe style="border:0;width:{width}px;'
            f'height:800px" srcdoc="{source}"></iframe><script>addEventListener("load", () => '
            'document.body.append("FOUND " + document.querySelector("iframe").contentDocument'
            '.querySelector("output").textContent + " END"))</script>'
        )
        dom = browse(frame, 1300, scheme, "--dump-dom")
        (said,) = re.findall(r"FOUND (\S+) END", dom)
        over, inside, dark, smallest, wrong = said.split(",")
        assert (over, inside, wrong) == ("0", str(width), "0")
        assert dark == str(scheme == "dark").lower()
        assert float(smallest) >= 9.0  # pixels
    picture = tmp_path / "page.png"
    browse(folder / "report.html", 1000, scheme, f"--screenshot={picture}")
    corner = Image.open(picture).convert("RGB").getpixel((2, 2))
    assert corner == ((0x15, 0x18, 0x1B) if scheme == "dark" else (255, 255, 255))
