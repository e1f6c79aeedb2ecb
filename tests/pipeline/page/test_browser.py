"""A page in a real browser: it fits narrow and wide windows, in light and dark, without errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from tests.pipeline.page.made_runs import make_run
from torchrl_drpo.pipeline.page.command import page_beside

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
#: Says of a page how far it is wider than its window, what it looks like, and what went wrong.
PROBE = """<script>
const wrong = [];
addEventListener("error", e => wrong.push(String(e.message)), true);
addEventListener("load", () => {
  const root = document.documentElement;
  const heights = [...document.querySelectorAll("svg text")].map(
    t => t.getBoundingClientRect().height);
  parent.document.body.append("FOUND " + JSON.stringify({
    over: root.scrollWidth - root.clientWidth, width: root.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.querySelector("svg text")).fill,
    smallest: Math.min(...heights), wrong: wrong}) + " END");
});
</script>"""
#: Of Blink's PreferredColorScheme, with the colours of paper and ink.
SCHEMES = {
    "dark": (0, "rgb(21, 24, 27)", "rgb(230, 232, 235)"),
    "light": (1, "rgb(255, 255, 255)", "rgb(28, 32, 36)"),
}
WIDTHS = (400, 1200)


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_fits_and_is_readable(tmp_path: Path, scheme: str) -> None:
    number, paper, ink = SCHEMES[scheme]
    folder = make_run(tmp_path / "run")
    page_beside(folder)
    text = (folder / "report.html").read_text().replace("</head>", PROBE + "</head>")
    # A browser's own window may be no narrower than some 500 pixels; a frame may.
    frames = [
        f'<iframe style="border:0;width:{width}px;height:800px" srcdoc="{escape(text)}"></iframe>'
        for width in WIDTHS
    ]
    outer = tmp_path / "frames.html"
    outer.write_text("<!doctype html><body>" + "".join(frames))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--enable-logging=stderr", f"--blink-settings=preferredColorScheme={number}"]
    found = subprocess.run(
        [str(BROWSER), *options, "--window-size=1300,900", "--dump-dom", outer.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "CONSOLE" not in found.stderr, found.stderr
    said = [json.loads(unescape(each)) for each in re.findall(r"FOUND (\{.*?\}) END", found.stdout)]
    assert sorted(each["width"] for each in said) == sorted(WIDTHS)
    for each in said:
        assert each["over"] == 0
        assert each["wrong"] == []
        assert (each["paper"], each["ink"]) == (paper, ink)
        assert each["smallest"] >= 9.0  # pixels
