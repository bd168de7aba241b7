"""Section "Embeddings": tokens in two dimensions, and their neighbours in all."""

from collections.abc import Sequence

from charlm.evaluation.probes.embeddings import EmbeddedToken, Embeddings
from charlm.views.figures.points import label_map
from charlm.views.html import Html, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    Figure,
    Numbers,
    Section,
    bar_rows,
    fact_list,
    panel,
    percentage,
    slider,
)
from charlm.views.passages import visible


def embeddings_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for the first run that has embeddings."""
    run, embeddings = next(
        (run, run.embeddings) for run in runs if isinstance(run.embeddings, Embeddings)
    )
    return Section("embeddings", "Embeddings", [_embeddings_figure(run.name, embeddings)])


def describe_embeddings(embeddings: Embeddings) -> str:
    """Return a sentence about how much of the embeddings the plane shows."""
    explained = percentage(sum(embeddings.variance))
    return (
        f"The first two principal components hold {explained} of the variance of "
        f"{embeddings.size:,} dimensions."
    )


def _embeddings_figure(name: str, embeddings: Embeddings) -> Figure:
    tokens = embeddings.tokens
    labels = [visible(token.label) for token in tokens]
    return Figure(
        key="embeddings",
        title=f"Embeddings of the {len(labels)} most frequent tokens, {name}",
        findings=f"{describe_embeddings(embeddings)} The panel lists the nearest tokens in all "
        "dimensions. A point is a token whose label would cover another one.",
        body=tag("div", _map(labels, tokens), _panel(tokens[0]), class_="split"),
        numbers=Numbers(
            ["token", "count", "component 1", "component 2", "nearest"],
            [
                labels,
                [token.count for token in tokens],
                [round(token.x, 4) for token in tokens],
                [round(token.y, 4) for token in tokens],
                [" ".join(visible(near.label) for near in token.neighbours) for token in tokens],
            ],
        ),
        data={
            "label": labels,
            "count": [token.count for token in tokens],
            "near": [
                [[visible(near.label), round(near.cosine, 5)] for near in token.neighbours]
                for token in tokens
            ],
        },
    )


def _map(labels: Sequence[str], tokens: Sequence[EmbeddedToken]) -> Html:
    drawing = label_map(labels, [token.x for token in tokens], [token.y for token in tokens])
    return slider("embeddings", drawing, label="Token", count=len(labels))


def _panel(token: EmbeddedToken) -> Html:
    """Return the panel for one token."""
    near = [(visible(other.label), other.cosine) for other in token.neighbours]
    return panel(
        "embeddings",
        tag("h4", "Token ", tag("code", visible(token.label))),
        fact_list({"in the training text": f"{token.count:,}"}),
        tag("div", "Nearest by cosine, all dimensions", class_="mut"),
        tag("ol", *bar_rows(near, write="{:.2f}".format), class_="bars"),
    )
