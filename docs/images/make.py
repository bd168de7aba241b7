"""Make docs/images/memory.png: the memory figure of a report, as a browser shows it.

Needs the extra `dev` and Chromium (on Debian: apt-get install chromium). The networks have about
347,000 parameters each:

    charlm train --config quickstart --steps 2500 --set model.embedding_size=48 \
        --set model.cell=nested_lstm --set model.hidden_size=156 --out runs/nested
    charlm train --config quickstart --steps 2500 --set model.embedding_size=48 \
        --set model.cell=lstm --set model.hidden_size=256 --out runs/lstm
    charlm train --config quickstart --steps 2500 --set model.embedding_size=48 \
        --set model.cell=gru --set model.hidden_size=297 --out runs/gru
    python docs/images/make.py runs/nested runs/lstm runs/gru
"""

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import charlm
from charlm.api import write_report

SENTENCE = "context the formal study of grammar is an important part of education"
CHROMIUM = "/usr/bin/chromium"
PLACE = SENTENCE.index("education") + len("educ")  # Token that the figure predicts.


def main() -> None:
    """Write the report of the runs, and the picture of its memory figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    runs = [charlm.load(folder) for folder in parser.parse_args().runs]
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(runs, Path(folder) / "report.html", text=SENTENCE, sections=("memory",))
        take_picture(page, Path(__file__).with_name("memory.png"))


def take_picture(page: Path, picture: Path) -> None:
    """Save the memory figure of a report, with the pointer on one token of the sentence."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        tab.locator("[data-mem='0'] i").nth(PLACE).click()
        tab.locator("#p-memory").screenshot(path=str(picture))
        browser.close()


if __name__ == "__main__":
    main()
