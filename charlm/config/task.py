"""The section `task`: what the network learns."""

from typing import Literal

from pydantic import Field, model_validator

from charlm.config.section import Section

TaskKind = Literal["language_model", "complete", "translate", "classify", "tag"]
# Options of each kind of task; those of other kinds are rejected.
TASK_OPTIONS: dict[str, tuple[str, ...]] = {"classify": ("pooling",), "translate": ("attention",)}


class Task(Section):
    """What the network learns. Options of other kinds are rejected."""

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
    def options(self) -> tuple[str, ...]:
        """Names of the options of this kind."""
        return TASK_OPTIONS.get(self.kind, ())

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

    def fields_shown(self) -> list[str]:
        """Return `kind` and the names of its options."""
        return ["kind", *self.options]

    @model_validator(mode="after")
    def _has_only_options_of_its_kind(self) -> "Task":
        owners = {option: kind for kind, options in TASK_OPTIONS.items() for option in options}
        for name, owner in owners.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if name not in self.options and value != default:
                raise ValueError(f"{name}: is an option of {owner}, not of {self.kind}; remove it")
        return self
