"""Figure of the task `tag`: texts whose tokens are coloured by the predicted label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from charlm.errors import counted
from charlm.tasks.labels import LabelScores, TaggedText
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, bar_rows, fact_list, panel, paragraph, slider, the_first
from charlm.views.passages import HINT, visible

STYLES = 8  # Styles of labels, t1 to t8.
_MAX_TOKENS = 800  # Largest number of tokens in all examples together.
_MAX_BARS = 4  # Labels with their probabilities in the panel.
_OUTSIDE = "O"


def describe_tags(examples: Sequence[TaggedText]) -> str:
    """Return a sentence about the wrong labels of the texts that are shown."""
    pairs = [pair for text in examples for pair in zip(text.right, text.predicted, strict=True)]
    wrong = sum(right != predicted.label for right, predicted in pairs)
    errors = "none is wrong" if wrong == 0 else f"{wrong:,} of them {_are(wrong)} wrong"
    return (
        f"Shown: {the_first(len(examples), 'text')} of the validation split with "
        f"{counted(len(pairs), 'label')}; {errors}."
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def kind_of(label: str) -> str:
    """Return what a label is coloured by: the type of a span, or the label itself.

    >>> kind_of("B-PER"), kind_of("I-PER"), kind_of("NOUN")
    ('PER', 'PER', 'NOUN')
    """
    return label[2:] if label[:2] in ("B-", "I-") else label


def styles_of(examples: Sequence[TaggedText]) -> dict[str, str]:
    """Return the class of each kind of label: a style for the most frequent ones, else t0."""
    counts = Counter(
        kind_of(label)
        for text in examples
        for label in (*(found.label for found in text.predicted), *text.right)
    )
    is_bio = any(kind_of(label) != label for text in examples for label in text.right)
    plain = {_OUTSIDE} if is_bio else set()
    frequent = [kind for kind, _ in counts.most_common() if kind not in plain][:STYLES]
    styles = {kind: f"t{number}" for number, kind in enumerate(frequent, start=1)}
    return {kind: styles.get(kind, "t0") for kind in counts}


def tags_figure(run: RunMeasurements, scores: LabelScores, of_run: str) -> Figure | None:
    """Return the figure of a run; None for a task without labels of tokens."""
    examples = _beginning(scores.examples)
    if not examples:
        return None
    styles = styles_of(examples)
    key = f"tags-{run.number + 1}"
    by_word = run.trained.config.tokenizer.level == "word"
    text = tag(
        "div",
        tag("p", "Texts: ", *(f"{''.join(found.tokens)} " for found in examples), class_="vh"),
        slider(
            key,
            _coloured(examples, styles, gap=" " if by_word else ""),
            label="Position in the texts",
            count=sum(len(found.tokens) for found in examples),
            style="text slider",
        ),
    )
    data = _data(examples)
    return Figure(
        key=key,
        title=f"Labels of each token{of_run}",
        findings=paragraph(
            describe_tags(examples),
            "A token has the colour and the line of its predicted label; wrong labels are framed.",
        ),
        body=join(_legend(styles), tag("div", text, _panel(key, data), class_="split"), HINT),
        data=data,
        has_svg=False,
    )


def _beginning(examples: Sequence[TaggedText]) -> list[TaggedText]:
    """Return the first texts, the last one cut, so that there are not too many tokens."""
    shown: list[TaggedText] = []
    left = _MAX_TOKENS
    for text in examples:
        if left <= 0:
            break
        shown.append(TaggedText(text.tokens[:left], text.right[:left], text.predicted[:left]))
        left -= len(text.tokens)
    return shown


def _coloured(examples: Sequence[TaggedText], styles: Mapping[str, str], *, gap: str) -> Html:
    elements: list[object] = []
    for number, text in enumerate(examples):
        if number:
            elements.append(Html("\n"))
        for token, right, found in zip(text.tokens, text.right, text.predicted, strict=True):
            classes = styles[kind_of(found.label)]
            classes += " begin" if found.label.startswith("B-") else ""
            classes += " wrong" if found.label != right else ""
            elements += [tag("i", token.replace("\n", "↵"), class_=classes), gap]
            if token.endswith("\n"):
                elements.append(Html("\n"))
    return join(*elements)


def _legend(styles: Mapping[str, str]) -> Html:
    named = sorted((style, kind) for kind, style in styles.items() if style != "t0")
    items = [tag("li", tag("i", visible(kind), class_=style)) for style, kind in named]
    rest = [visible(kind) for kind, style in styles.items() if style == "t0"]
    if rest:
        items.append(tag("li", f"without colour: {', '.join(rest)}", class_="rest"))
    wrong = tag("li", tag("i", "wrong", class_="wrong"))
    return tag("ul", *items, wrong, class_="text tagkeys")


def _data(examples: Sequence[TaggedText]) -> dict[str, Any]:
    """Return what the page's script needs."""
    labels = list(
        dict.fromkeys(
            label
            for text in examples
            for label in (*text.right, *(name for p in text.predicted for name in p.probabilities))
        )
    )
    number_of = {label: number for number, label in enumerate(labels)}
    right = [label for text in examples for label in text.right]
    predicted = [found for text in examples for found in text.predicted]
    wrong = [at for at, label in enumerate(right) if label != predicted[at].label]
    return {
        "labels": [visible(label) for label in labels],
        "token": [visible(token) for text in examples for token in text.tokens],
        "right": [number_of[label] for label in right],
        "tags": [number_of[found.label] for found in predicted],
        "near": [_near(found.probabilities, number_of) for found in predicted],
        "at": wrong[0] if wrong else 0,
    }


def _near(
    probabilities: Mapping[str, float], number_of: Mapping[str, int]
) -> list[tuple[int, float]]:
    """Return the most probable labels with their probabilities."""
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])[:_MAX_BARS]
    return [(number_of[label], round(p, 5)) for label, p in ranked]


def _panel(key: str, data: Mapping[str, Any]) -> Html:
    """Return the panel for the first wrong token, or the first token."""
    at, labels = data["at"], data["labels"]
    right, predicted = labels[data["right"][at]], labels[data["tags"][at]]
    bars = [(labels[number], p) for number, p in data["near"][at]]
    facts = {"right": right, "predicted": predicted}
    return panel(
        key,
        tag("h4", "Token ", tag("code", data["token"][at])),
        fact_list(facts),
        tag("div", "Most probable labels", class_="mut"),
        tag("ol", *bar_rows(bars, predicted), class_="bars"),
    )
