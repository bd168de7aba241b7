"""Exported pages: speed in Chromium, size, time of twenty records, and what int8 costs.

With --hidden, or without arguments, it measures how many tokens per second the engine draws in
headless Chromium, for an LSTM of one layer with random weights (seed 1): network, filters and
decoding, on one core. The columns:

    tokens/s    median of five rounds of 2,000 tokens
    ms/token    its inverse
    products    multiplications in matrix products per token

For each configuration it prints the size of the page in bytes after one step of training, which is
that after any training. For each run folder it prints the size, the loss of the run on its
validation text with its own weights and with those of the page (int8), and what the page says after
its first click: the seconds for twenty records, or for 2,000 characters of a model of one long
text. Needs Chromium and playwright.

    python benchmarks/html_pages.py --hidden 256 512
    python benchmarks/html_pages.py --configs names shakespeare
    python benchmarks/html_pages.py runs/names runs/quickstart runs/words runs/shakespeare
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from measuring import add_options, argument_parser, print_environment, print_results, run_main

import charlm
from charlm.config.model import Model as ModelSection
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError
from charlm.export.description import describe_network, describe_tokenizer
from charlm.export.html import engine_script
from charlm.export.javascript import find_chromium, run_in_chromium
from charlm.export.weights import pack_weights, read_weights
from charlm.model.language_model import LanguageModel

ALPHABET = "".join(map(chr, range(32, 97)))  # With <EOS> and <UNK> 67 ids, as Tiny Shakespeare has.
MEASURE = """
const model = new Model(description);
const options = { temperature: 0.8, length: Infinity };
const rounds = Array.from({ length: 6 }, () => {
  const texts = model.write(options);
  const begin = performance.now();
  for (let k = 0; k < 2000; k++) texts.next();
  return (performance.now() - begin) / 2000;
});
const result = JSON.stringify(rounds.slice(1).sort((a, b) => a - b)[2]);
"""


def main() -> None:
    """Print the measurements that the command line asks for, and all as JSON."""
    options = arguments()
    chromium = find_chromium()
    if chromium is None:
        raise CharlmError("needs Chromium, which is not in the path; install chromium")
    if options.runs and find_spec("playwright") is None:
        raise CharlmError("run folders need playwright, of the extra dev: pip install '.[dev]'")
    print_environment()
    if options.hidden:
        print("\nhidden   tokens/s   ms/token   products")
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "speeds": [measure_speed(chromium, size) for size in options.hidden],
            "sizes": {name: measure_size(name, Path(folder)) for name in options.configs},
            "runs": {str(run): measure_page(run, Path(folder), chromium) for run in options.runs},
        }
    print_results(**results)


def arguments() -> argparse.Namespace:
    """Return the parsed command line; without arguments the speed of two sizes is measured."""
    parser = argument_parser(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders")
    add_options(parser, configs=[], hidden=[])
    options = parser.parse_args()
    if not (options.runs or options.configs or options.hidden):
        options.hidden = [256, 512]
    return options


def measure_speed(chromium: str, hidden_size: int) -> dict[str, float]:
    """Print and return the speed of an LSTM with random weights."""
    torch.manual_seed(1)
    section = ModelSection(hidden_size=hidden_size, embedding_size=64)
    tokenizer = learn_tokenizer([ALPHABET], charlm.load_config(None, []).tokenizer)
    model = LanguageModel(section, tokenizer.vocabulary_size).eval()
    description = {
        **describe_network(model, section, "int8"),
        "tokenizer": describe_tokenizer(tokenizer),
        "records": False,
        "backward": False,
    }
    script = f"{engine_script()}const description = {json.dumps(description)};{MEASURE}"
    ms_per_token = float(run_in_chromium(chromium, script))
    # The product of the first layer's input weights is computed once per token of the alphabet.
    products = 4 * hidden_size**2 + hidden_size * tokenizer.vocabulary_size
    speed = f"{1000 / ms_per_token:11,.0f}{ms_per_token:11.3f}"
    print(f"{hidden_size:6}{speed}{products:11,}", flush=True)
    return {"hidden_size": hidden_size, "ms_per_token": ms_per_token, "products": products}


def measure_size(config: str, folder: Path) -> int:
    """Print and return the size of the page of a configuration in bytes."""
    overrides = ["training.minutes=null", "training.steps=1"]
    loaded = charlm.load_config(config, overrides)
    run = charlm.train(loaded, out=folder / f"run-{config}", progress=False)
    result = charlm.export_run(run, "html", folder / f"{config}.html")
    print(f"\n{config}: {result.bytes:,} bytes, int8", flush=True)
    return result.bytes


def measure_page(path: Path, folder: Path, chromium: str) -> dict[str, Any]:
    """Print and return size, loss and speed of the page of a run."""
    run = charlm.load(path, device="cpu")
    page_file = folder / f"{path.name}.html"
    result = charlm.export_run(run, "html", page_file)
    with page_of(page_file, chromium) as page:
        status = first_click(page)
    print(f"\n{path}: {result.bytes:,} bytes, int8; in the browser: {status}")
    exact = run.perplexity().loss_nats
    weights = pack_weights(run.trained.model, "int8")
    read_weights(run.trained.model, weights.tensors, weights.data)
    rounded = run.perplexity().loss_nats
    print(
        f"nats per token on the validation text: {exact:.4f}, int8 {rounded:.4f}, "
        f"difference {rounded - exact:+.5f}",
        flush=True,
    )
    return {"bytes": result.bytes, "status": status, "loss_nats": exact, "int8_loss_nats": rounded}


@contextmanager
def page_of(path: Path, chromium: str) -> Iterator[Any]:
    """Yield the playwright page of a file in a browser."""
    from playwright.sync_api import sync_playwright  # So that --help works without it.

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(path.as_uri())
        yield page
        browser.close()


def first_click(page: Any) -> str:
    """Return what the page says after its first records or its first 2,000 characters."""
    if page.locator("#length").count():
        page.locator("#length").select_option("2000")
        page.locator("#go").click()
    page.get_by_text(re.compile(r"second")).wait_for()
    return page.locator("#status").text_content() or ""


if __name__ == "__main__":
    run_main(main)
