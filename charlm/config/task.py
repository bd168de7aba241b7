"""The section `task`: what the network learns."""

from typing import ClassVar, Literal

from pydantic import Field

from charlm.config.section import SectionOfKinds

TaskKind = Literal["language_model", "complete", "translate", "classify", "tag"]


class Task(SectionOfKinds):
    """What the network learns. Options of other kinds are rejected."""

    OPTIONS: ClassVar = {"classify": ("pooling",), "translate": ("attention",)}
    kind: TaskKind = Field(
        "language_model",
        description=(
            "language_model: predict each token of a text; complete: write the target of a source; "
            "translate: the same with an encoder and a decoder; classify: one label for each text; "
            "tag: one label for each token. (docs/tasks.md)"
        ),
    )
    attention: Literal["none", "additive"] = Field(
        "additive",
        description=(
            "translate: what the decoder sees of the source. none: only the last state of the "
            "encoder, which it starts from; additive: also a weighted mean of the states after all "
            "source tokens (Bahdanau et al. 2015)."
        ),
    )
    pooling: Literal["last", "mean", "max"] = Field(
        "mean",
        description=(
            "classify: what the label is read from: the last state, or the mean or the maximum of "
            "the states over time."
        ),
    )

    @property
    def has_pairs(self) -> bool:
        """Whether a record is a source and a target."""
        return self.kind != "language_model"

    @property
    def has_labels(self) -> bool:
        """Whether the targets are labels of a fixed set, and no text."""
        return self.kind in ("classify", "tag")

    @property
    def writes_targets(self) -> bool:
        """Whether the targets are texts, which a trained model writes."""
        return self.has_pairs and not self.has_labels

    @property
    def directions(self) -> tuple[str, ...]:
        """Directions in which the sources of pairs can be read."""
        return ("forward",) if self.kind == "complete" else ("forward", "both")
