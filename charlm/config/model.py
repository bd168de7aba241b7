"""The section `model`: the network."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from charlm.config.cell import Cell, as_cell
from charlm.config.section import MAX_UNITS, Fraction, Section, as_list

# Upper limits, so that an untrusted configuration cannot exhaust memory.
_MAX_LAYERS = 256
_MAX_NGRAMS = 8
Sizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_UNITS)], ...],
    BeforeValidator(as_list),
    Field(min_length=1, max_length=_MAX_LAYERS),
]
Cutoffs = Annotated[tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(as_list)]


class Model(Section):
    """The network: embedding, recurrence, projection."""

    cell: Annotated[Cell, BeforeValidator(as_cell)] = Field(
        Cell.model_validate({}), description="Recurrent cell."
    )
    hidden_size: Sizes = Field(
        (512,),
        description=(
            "Number of units of every layer, or a list with one number per layer. 512 "
            "is what two cores can train in a minute. The cell bag always has the size "
            "of its input."
        ),
    )
    num_layers: int = Field(
        1,
        ge=1,
        le=_MAX_LAYERS,
        description=(
            "Number of recurrent layers. In a run of one minute, one wide layer is "
            "better than two narrow ones."
        ),
    )
    embedding: Literal["learned", "one_hot", "pretrained"] = Field(
        "learned",
        description=(
            "learned; one_hot: the unit vector of a token, as wide as the vocabulary; "
            "pretrained: read from `vectors`."
        ),
    )
    embedding_size: int = Field(
        64,
        ge=1,
        le=MAX_UNITS,
        description="Number of units of a token embedding; no effect with one_hot.",
    )
    vectors: str | None = Field(
        None,
        min_length=1,
        description=(
            "pretrained: text file of vectors in GloVe or word2vec format, optionally "
            "compressed (.gz)."
        ),
    )
    freeze_embedding: bool = Field(False, description="pretrained: do not train the vectors.")
    ngrams: int = Field(
        0,
        ge=0,
        le=_MAX_NGRAMS,
        description=(
            "Join the embedding of a token with a vector for each of its last 2, 3, ... up to N "
            "tokens, from hash tables (Pagnoni et al. 2024); 0: none. 4 helps with characters if "
            "the text is read at most 2.5 times."
        ),
    )
    ngram_buckets: int = Field(
        1 << 14,
        ge=1,
        le=MAX_UNITS,
        description="ngrams: number of rows of the hash table for the n-grams of each length.",
    )
    ngram_width: int = Field(
        32,
        ge=1,
        le=MAX_UNITS,
        description="ngrams: number of units of a row.",
    )
    ngram_dropout: Fraction = Field(
        0.0,
        description="ngrams: fraction of the rows dropped, each as a whole.",
    )
    direction: Literal["forward", "backward", "both"] = Field(
        "forward",
        description=(
            "forward: predict each token from those before it; backward: from those "
            "after it; both: two networks that share embedding and projection, to "
            "score a text or fill a gap from both sides."
        ),
    )
    skip: Literal["none", "residual", "sum"] = Field(
        "none",
        description=(
            "none; residual: from the second layer on, a layer's input is added to its "
            "output; sum: the projection reads the sum of the outputs of all layers."
        ),
    )
    layer_norm: bool = Field(False, description="Normalize the output of each layer.")
    block: Literal["none", "griffin"] = Field(
        "none",
        description=(
            "none; griffin: each layer is a residual block of De et al. 2024: RMSNorm and "
            "the recurrence with a gated branch, then RMSNorm and a gated MLP. The stream "
            "that the layers add to has `embedding_size` units, so choose 256 or more; "
            "`dropout` acts on what is added to it."
        ),
    )
    mlp_expansion: int = Field(
        3, ge=1, le=16, description="griffin: units of the MLP per unit of the stream, 1 to 16."
    )
    initial_state: Literal["zero", "learned"] = Field(
        "zero", description="State before the first token: zero or learned."
    )
    recurrent_gain: float = Field(
        1.0,
        gt=0,
        description=(
            "Gain of the orthogonal initialization of the recurrent matrices. Above 1, "
            "states and gradients can explode; below 1, they vanish sooner."
        ),
    )
    tied: bool = Field(
        False, description="Use one matrix for embedding and projection (Press and Wolf 2017)."
    )
    mixture: int = Field(
        1,
        ge=1,
        le=1000,
        description=(
            "Number of softmaxes in a mixture of softmaxes (Yang et al. 2018), 1 to "
            "1000. For words, 10 to 15 help."
        ),
    )
    adaptive_cutoffs: Cutoffs = Field(
        (),
        description=(
            "Token ids that divide the vocabulary, which is ordered by frequency, into "
            "the clusters of an adaptive softmax (Grave et al. 2017), as in [2000, "
            "10000]. For vocabularies of tens of thousands of tokens."
        ),
    )
    word_dropout: Fraction = Field(
        0.0,
        description=(
            "Fraction of the vocabulary whose whole embeddings are dropped during a "
            "window (Gal and Ghahramani 2016)."
        ),
    )
    embedding_dropout: Fraction = Field(
        0.0, description="Fraction of the embedding units dropped, before the first layer."
    )
    dropout: Fraction = Field(
        0.0, description="Fraction of units dropped between layers (Zaremba et al. 2014)."
    )
    output_dropout: Fraction = Field(
        0.0, description="Fraction of units dropped before the projection."
    )
    dropout_mask: Literal["token", "window"] = Field(
        "token",
        description=(
            "token: a new mask for each token; window: one mask for a whole window, as "
            "in variational dropout (Gal and Ghahramani 2016)."
        ),
    )
    weight_dropout: Fraction = Field(
        0.0,
        description=(
            "Fraction of the recurrent weights dropped during a window (Merity et al. 2018)."
        ),
    )

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Number of units of each layer."""
        return self.hidden_size if len(self.hidden_size) > 1 else self.hidden_size * self.num_layers

    @model_validator(mode="after")
    def _layers_fit_together(self) -> "Model":
        num_sizes = len(self.hidden_size)
        if num_sizes > 1:
            if "num_layers" in self.model_fields_set and self.num_layers != num_sizes:
                raise ValueError(
                    f"hidden_size: has {num_sizes} entries, but num_layers is {self.num_layers}; "
                    "remove num_layers"
                )
            object.__setattr__(self, "num_layers", num_sizes)
        if self.cell.kind == "hgrn" and len(set(self.hidden_sizes)) > 1:
            raise ValueError(
                "hidden_size: the layers of hgrn share a lower bound of their forget gates, so all "
                f"must have the same size, got {list(self.hidden_sizes)}; give one hidden_size"
            )
        if self.skip != "none" and len(set(self.hidden_sizes)) > 1:
            raise ValueError(
                f"skip: {self.skip} adds the outputs of layers, so all layers must have the same "
                f"size, got {list(self.hidden_sizes)}; give one hidden_size"
            )
        return self

    @model_validator(mode="after")
    def _ngrams_are_longer_than_a_token(self) -> "Model":
        if self.ngrams == 1:
            raise ValueError("ngrams: must be 0, or at least 2 tokens, got 1; set 0 for none")
        for name in ("ngram_buckets", "ngram_width", "ngram_dropout"):
            if not self.ngrams and not self.has_default(name):
                raise ValueError(
                    f"{name}: has an effect only with ngrams; set ngrams: 4, or remove it"
                )
        return self

    @model_validator(mode="after")
    def _block_is_the_only_way_around_a_layer(self) -> "Model":
        if self.block == "none":
            if not self.has_default("mlp_expansion"):
                raise ValueError(
                    "mlp_expansion: has an effect only with a block; set block: griffin, or remove "
                    "mlp_expansion"
                )
            return self
        for name in ("skip", "layer_norm"):
            if not self.has_default(name):
                raise ValueError(
                    f"{name}: block: griffin has its own residual connections and norms, got "
                    f"{name}: {getattr(self, name)}; remove {name}"
                )
        return self

    @model_validator(mode="after")
    def _pretrained_embedding_has_vectors(self) -> "Model":
        if self.embedding == "pretrained" and self.vectors is None:
            raise ValueError(
                "embedding: pretrained needs a file of vectors; "
                "add it, as in vectors: glove.6B.100d.txt"
            )
        for name in ("vectors", "freeze_embedding"):
            if self.embedding != "pretrained" and getattr(self, name):
                raise ValueError(
                    f"{name}: has an effect only with embedding: pretrained, got {self.embedding}; "
                    "remove it"
                )
        return self

    @model_validator(mode="after")
    def _embedding_fits_projection(self) -> "Model":
        if self.tied and self.embedding == "one_hot":
            raise ValueError("tied: one_hot has no matrix to share; remove one of the two")
        if self.tied and self.freeze_embedding:
            raise ValueError(
                "tied: freeze_embedding would freeze the projection too; remove one of the two"
            )
        if self.embedding == "one_hot" and self.word_dropout:
            raise ValueError(
                "word_dropout: one_hot has no embeddings to drop; use embedding_dropout instead"
            )
        return self

    @model_validator(mode="after")
    def _adaptive_softmax_is_possible(self) -> "Model":
        if not self.adaptive_cutoffs:
            return self
        if self.tied:
            raise ValueError(
                "adaptive_cutoffs: an adaptive softmax cannot use the embedding's matrix; "
                "remove tied"
            )
        if self.mixture > 1:
            raise ValueError(
                "adaptive_cutoffs: an adaptive softmax cannot be part of a mixture; remove mixture"
            )
        if list(self.adaptive_cutoffs) != sorted(set(self.adaptive_cutoffs)):
            raise ValueError(
                f"adaptive_cutoffs: must be increasing, got {list(self.adaptive_cutoffs)}"
            )
        return self
