"""Export to HTML: one file that generates text in a browser, without a network."""

import base64
import json
import re
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from charlm.data.windows.directions import record_spans
from charlm.errors import UnsupportedOptionError
from charlm.export.description import About, describe
from charlm.export.javascript import Program, run_program
from charlm.export.options import ExportOptions
from charlm.export.verification import Computed, Passage
from charlm.model_texts import encode, training_texts
from charlm.trained_model import TrainedModel
from charlm.views.html import Html, join, tag
from charlm.views.style import design_tokens, page_head

# The engine, in the order in which its files use each other.
_ENGINE = ("engine.js", "sampling.js", "tokenizer.js", "model.js")
_MODULE_END = """\
/* ---- The model. */

const model = new Model({description});

/** Facts about the model: title of the corpus, licence of the text, parameters, score. */
export const about = model.about;
/** The tokenizer: encode(text) returns ids, decode(ids) a text. */
export const tokenizer = model.tokenizer;
/** Read a token: return {{logits, state}}. A text begins with token 0 and without a state. */
export const step = (token, state) => model.step(token, state);
/** Return a text. Options: prompt, seed, number, length, temperature, topK, topP, minP. */
export const sample = (options) => model.sample(options);
/** Write a text token by token: yield {{text, tokens}}, the text so far. Options as for sample. */
export const stream = (options) => model.write(options ?? {{}});
"""
_FIRST_LINE = "// A language model, exported by charlm {version}. See docs/export.md of charlm.\n"


def write(trained: TrainedModel, options: ExportOptions, path: Path) -> None:
    """Write a page, or with `embed` a JavaScript module.

    Raises:
        UnsupportedOptionError: `new_only` is given, and the model does not write records.
    """
    if options.new_only and not trained.writes_records:
        raise UnsupportedOptionError(
            "new_only",
            "needs a model of records: whether a part of one long text is new cannot be told from "
            "hashes; leave the option out",
        )
    description = describe(trained, options.weight_precision)
    if options.embed:
        text = _module(description)
    else:
        text = _page(description, _training_hashes(trained) if options.new_only else None)
    path.write_text(text, encoding="utf-8", newline="\n")


def compute(path: Path, passage: Passage, options: ExportOptions) -> Computed:
    """Compute logits by the JavaScript and the weights of the written file."""
    text = path.read_text(encoding="utf-8")
    program = _program_of_module(text) if options.embed else _program_of_page(text)
    return run_program(program, passage.inputs)


def engine_script() -> str:
    """Return the engine without a model, as a script whose classes later scripts can use."""
    module = "\n".join(_asset(name) for name in _ENGINE)
    return re.sub(r"^export ", "", module, flags=re.M)


def _module(description: dict[str, Any]) -> str:
    first = _FIRST_LINE.format(version=description["about"]["version"])
    return first + engine_script() + "\n" + _MODULE_END.format(description=_json(description))


def _program_of_module(text: str) -> Program:
    start = text.index("const model = new Model(") + len("const model = new Model(")
    end = text.index(");\n", start)
    return Program(engine=text[: text.index("/* ---- The model. */")], model=text[start:end])


def _program_of_page(text: str) -> Program:
    model = re.search(r'<script type="application/json" id="model">(.*?)</script>', text, re.S)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    if model is None or not scripts:
        raise ValueError("the page has no model or no script")
    return Program(engine=scripts[0], model=model[1])


def _asset(name: str) -> str:
    return (files("charlm.export") / "assets" / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """Return JSON that can stand in a script element: it has no "</" and no "<!--"."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _training_hashes(trained: TrainedModel) -> str:
    """Return the CRC-32 of each different record of the training part, sorted, in base64."""
    tokens = encode(trained, training_texts(trained)["train"])
    texts = {
        trained.tokenizer.decode(tokens.ids[start : stop - 1].tolist())
        for start, stop in record_spans(tokens.ids).tolist()
    }
    hashes = np.unique(np.array([zlib.crc32(text.encode()) for text in texts], dtype="<u4"))
    return base64.b64encode(hashes.tobytes()).decode()


# The page.


def _page(description: dict[str, Any], hashes: str | None) -> str:
    about = About(**description["about"])
    style = design_tokens() + _asset("page.css")
    library, script = engine_script(), _asset("page.js")
    head = page_head(f"{about.title}: charlm", style, [library, script])
    data = Html(f'<script type="application/json" id="model">{_json(description)}</script>')
    known = Html(f'<script type="text/plain" id="training-hashes">{hashes}</script>')
    body = tag(
        "body",
        _body(about, is_records=description["records"], has_hashes=hashes is not None),
        data,
        known if hashes is not None else None,
        Html(f"<script>{library}</script><script>{script}</script>"),
        class_="records-page" if description["records"] else "stream",
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _body(about: About, *, is_records: bool, has_hashes: bool) -> Html:
    bar = tag(
        "div",
        tag("p", "charlm", class_="brand"),
        _button("Settings", "open-settings", aria_expanded="false", aria_controls="settings"),
        class_="top",
    )
    parts = _records(has_hashes) if is_records else _stream()
    lead = (
        f"A recurrent network ({about.network}) writes these texts in your browser, one "
        f"{about.token} after another. Nothing is sent anywhere."
    )
    main = tag(
        "main",
        tag("h1", about.title),
        tag("p", lead, class_="lead"),
        tag("div", parts, _settings(has_undo=not is_records), class_="work"),
        _about(about),
        id="main",
    )
    skip = tag("a", "Skip to the contents", class_="vh", href="#main")
    without = tag("noscript", tag("p", "This page needs JavaScript."))
    return join(skip, bar, without, main)


def _button(label: str, name: str, class_: str = "btn", **attributes: Any) -> Html:
    return tag("button", label, type="button", id=name, class_=class_, **attributes)


def _records(has_hashes: bool) -> Html:
    only_new = tag(
        "label",
        tag("input", type="checkbox", id="only-new", checked=True),
        "Only new: not in the training text",
        class_="check",
    )
    prompt = tag(
        "label",
        "Begin with ",
        tag("input", type="text", id="prompt", dir="auto", autocomplete="off"),
    )
    bar = tag(
        "div",
        _go("Twenty more"),
        prompt,
        only_new if has_hashes else None,
        class_="bar",
    )
    results = tag("ol", id="records", class_="records", aria_label="Records, the newest first")
    return join(tag("section", bar, _status(), results, aria_label="Records"), _kept())


def _kept() -> Html:
    """Return the list of the records that the reader keeps."""
    buttons = [_button("Copy", "copy"), _button("Download", "download")]
    return tag(
        "section",
        tag("h2", "Kept", id="kept-title"),
        tag("p", "Nothing is kept yet.", id="kept-empty", class_="empty"),
        tag("ol", id="kept"),
        tag("div", *buttons, class_="bar", id="kept-actions", hidden=True),
        class_="kept",
        aria_labelledby="kept-title",
    )


def _stream() -> Html:
    area = tag(
        "textarea",
        id="text",
        class_="text",
        dir="auto",
        aria_label="Text",
        aria_describedby="status",
        spellcheck="false",
        autocapitalize="off",
        autocomplete="off",
        placeholder="Type the beginning of a text, or nothing",
    )
    lengths = [
        tag("option", str(length), selected=length == 500) for length in (50, 200, 500, 2000)
    ]
    length = tag(
        "label", "Write ", tag("select", *lengths, id="length"), " characters", class_="right"
    )
    history = [_button(name, name.lower(), disabled=True) for name in ("Undo", "Redo")]
    bar = tag("div", _go("Continue"), *history, length, class_="bar")
    return tag("section", area, bar, _status(), aria_label="Text")


def _go(label: str) -> Html:
    return _button(
        label,
        "go",
        "btn go",
        attributes={"data-label": label, "aria-keyshortcuts": "Control+Enter"},
    )


def _status() -> Html:
    return tag(
        "div",
        tag("p", id="status", role="status", aria_live="polite"),
        tag("p", id="unknown", class_="unknown", aria_live="polite"),
        class_="status",
    )


def _settings(*, has_undo: bool) -> Html:
    fields = [
        _slider("Temperature", "temperature", 2, 0.05, "0 always takes the most probable token."),
        _number("Top-k", "topK", "Most probable tokens to draw from; 0 for all."),
        _slider("Top-p", "topP", 1, 0.01, "Probability that the drawn tokens have together."),
        _slider("Min-p", "minP", 0.5, 0.01, "Smallest probability, relative to the largest."),
        _number("Seed", "seed", "The same seed and settings give the same texts."),
    ]
    header = tag(
        "header", tag("h2", "Settings", id="settings-title"), _button("Close", "close-settings")
    )
    return tag(
        "section",
        header,
        *fields,
        _button("Reset", "reset"),
        _keys(has_undo=has_undo),
        id="settings",
        class_="settings",
        aria_labelledby="settings-title",
        hidden=True,
    )


def _keys(*, has_undo: bool) -> Html:
    keys = [(("Ctrl", "Enter"), "write"), (("Esc",), "stop; close the settings")]
    if has_undo:
        keys += [(("Ctrl", "Z"), "undo"), (("Ctrl", "Shift", "Z"), "redo")]
    items = [
        join(tag("dt", join(*(tag("kbd", name) for name in names))), tag("dd", action))
        for names, action in keys
    ]
    return tag("div", tag("h2", "Keys"), tag("dl", *items, class_="keys"), class_="keyhelp")


def _slider(label: str, name: str, largest: float, step: float, hint: str) -> Html:
    return tag(
        "div",
        tag("label", label, for_=name),
        tag("output", id=f"{name}-value", for_=name),
        tag(
            "input",
            type="range",
            id=name,
            min=0,
            max=largest,
            step=step,
            aria_describedby=f"{name}-hint",
        ),
        tag("span", hint, class_="hint", id=f"{name}-hint"),
        class_="field",
    )


def _number(label: str, name: str, hint: str) -> Html:
    return tag(
        "div",
        tag("label", label, for_=name),
        tag(
            "input",
            type="number",
            id=name,
            min=0,
            step=1,
            inputmode="numeric",
            aria_describedby=f"{name}-hint",
        ),
        tag("span", hint, class_="hint", id=f"{name}-hint"),
        class_="field",
    )


def _about(about: About) -> Html:
    facts = {
        "Corpus": about.title,
        "Source": about.source,
        "Licence of the text": about.licence,
        "Network": about.network,
        "Parameters": f"{about.parameters:,}, in {about.precision}",
        "Score": about.score,
        "Made with": f"charlm {about.version}",
    }
    items = [join(tag("dt", name), tag("dd", value)) for name, value in facts.items() if value]
    return tag(
        "section",
        tag("h2", "About this model", id="about-title"),
        tag("dl", *items),
        class_="about",
        aria_labelledby="about-title",
    )
