"""What the texts of one call have in common: prompt, saved state and constraints."""

from collections.abc import Sequence
from dataclasses import dataclass

from charlm.data.suffix_index import SuffixIndex
from charlm.errors import CheckpointError, UnsupportedOptionError
from charlm.sampling.batch import Batch
from charlm.sampling.constraints.banned_text import BannedText
from charlm.sampling.constraints.copy_limit import Backtracker, CopyLimit
from charlm.sampling.constraints.regex import Automaton, RegexConstraint, build_automaton
from charlm.sampling.generator import Constraint, Generator, GeneratorOptions
from charlm.sampling.options import ConstraintOptions, Filters, SampleOptions
from charlm.sampling.prompts import Prompt, first_token, read_prompt, refuse_unwritable
from charlm.sampling.saved_state import GenerationState, fits, state_from_bytes
from charlm.sampling.text_stream import TextBatch, TextStream
from charlm.trained_model import TrainedModel, require_one_direction


@dataclass(frozen=True)
class Plan:
    """What the texts of one call have in common.

    Attributes:
        trained: Model that writes.
        options: Options of the call.
        prompt: Prompt as the model reads it.
        state: State that the text continues from, or None.
        automaton: Automaton of the regular expression, or None.
    """

    trained: TrainedModel
    options: SampleOptions
    prompt: Prompt
    state: GenerationState | None
    automaton: Automaton | None

    @property
    def prompt_ids(self) -> list[int]:
        """Ids of the prompt, in the order of the text."""
        return self.prompt.ids

    @property
    def first_number(self) -> int:
        """Number of the first sequence."""
        return 0 if self.state is None else self.state.number

    @property
    def seed(self) -> int:
        """Seed of the random numbers."""
        if self.options.seed is not None:
            return self.options.seed
        return 1 if self.state is None else self.state.seed

    def begin(
        self,
        numbers: Sequence[int],
        copy_limit: CopyLimit | None = None,
        *,
        num_alternatives: int = 0,
        batch: Batch | None = None,
    ) -> TextBatch:
        """Return texts that have their prompts and are not written yet.

        Args:
            numbers: Number of each sequence.
            copy_limit: Copy limit of this batch.
            num_alternatives: Number of most probable tokens whose log-probabilities are kept.
            batch: Batch to share with other texts; `Generator.start` then begins the texts.
        """
        trained = self.trained
        prompt = in_reading_order(trained, self.prompt_ids)
        regex = self._regex_constraint(len(numbers))
        generator = Generator(
            trained.model,
            prompt,
            GeneratorOptions(
                numbers=numbers,
                seed=self.seed,
                filters=self.options.filters,
                stops_at_eos=trained.writes_records,
                scored=self.options.scored or self.options.best_of > 1,
                num_alternatives=num_alternatives,
            ),
            constraints=[
                *first_token(trained, self.prompt),
                *self._banned_text(prompt, len(numbers)),
                *([] if copy_limit is None else [copy_limit]),
                *([] if regex is None else [regex]),
            ],
            state=self.state,
            batch=batch,
        )
        if regex is not None and not trained.writes_records:
            regex.on_end(generator.stop)
        streams = [self._stream() for _ in numbers]
        return TextBatch(
            generator,
            streams,
            max_tokens=self.options.stop.max_tokens,
            backtracker=None if copy_limit is None else Backtracker(generator, copy_limit),
        )

    def copy_limit(self, index: SuffixIndex, max_copy: int) -> CopyLimit:
        """Return the copy limit of one text.

        Args:
            index: Index of the training text.
            max_copy: Maximum number of characters in a run.
        """
        tokenizer = self.trained.tokenizer
        token_texts = tokenizer.token_texts(eos=b"" if self.trained.writes_records else None)
        before = b"".join(token_texts[token] for token in self.prompt_ids)
        return CopyLimit(index, token_texts, max_copy, before=before)

    def _banned_text(self, prompt: list[int], batch: int) -> Sequence[Constraint]:
        earlier = [] if self.state is None else self.state.ids
        return banned_text(
            self.trained, self.options.constraints.ban, [*earlier, *prompt], batch=batch
        )

    def _regex_constraint(self, batch: int) -> RegexConstraint | None:
        if self.automaton is None:
            return None
        return RegexConstraint(
            self.automaton,
            length=self.options.stop.max_tokens,
            batch=batch,
        )

    def _stream(self) -> TextStream:
        return TextStream(
            self.trained.tokenizer,
            self.prompt_ids,
            self.options.stop,
            before=[] if self.state is None else self.state.ids,
            num_shown=0 if self.state is None else self.state.num_shown,
            pending=self.prompt.pending,
        )


def make_plan(trained: TrainedModel, options: SampleOptions, prompt: Prompt | None = None) -> Plan:
    """Return what the texts of one call have in common.

    Args:
        trained: Model that writes.
        options: Options of the call.
        prompt: Prompt to use instead of that of the options.

    Raises:
        UnsupportedOptionError: An option does not suit the model.
        CheckpointError: The saved state cannot be read, or belongs to another model.
        CharlmError: The model reads in both directions.
    """
    constraints = options.constraints
    require_one_direction(trained)
    refuse_if_backward(
        trained,
        characters=options.stop.characters is not None,
        until=bool(options.stop.until),
        state_in=options.state_in is not None,
        state_out=options.state_out,
        matching=constraints.matching is not None,
        max_copy=constraints.max_copy is not None,
    )
    allow_unknown = options.allow_unknown
    if prompt is None:
        prompt = read_prompt(trained, options.prompt, allow_unknown=allow_unknown)
    _refuse_unknown_ids(trained, options.filters)
    refuse_unwritable(trained, options.stop, constraints.ban, allow_unknown=allow_unknown)
    automaton = _automaton(trained, constraints, prompt)
    return Plan(
        trained=trained,
        options=options,
        prompt=prompt,
        state=_initial_state(trained, options),
        automaton=automaton,
    )


def _automaton(
    trained: TrainedModel, constraints: ConstraintOptions, prompt: Prompt
) -> Automaton | None:
    if constraints.matching is None:
        return None
    return build_automaton(
        constraints.matching,
        trained.tokenizer,
        records=trained.writes_records,
        before=prompt.ids,
        pending=prompt.pending,
        ban=constraints.ban,
    )


def _refuse_unknown_ids(trained: TrainedModel, filters: Filters) -> None:
    size = trained.tokenizer.vocabulary_size
    for token, _ in filters.logit_bias:
        if token >= size:
            raise UnsupportedOptionError(
                "logit_bias", f"must name ids below {size}, the number of tokens", value=token
            )


def refuse_if_backward(trained: TrainedModel, **given: bool) -> None:
    """Refuse options that need a model which writes from the beginning of a text.

    Args:
        trained: Model that writes.
        given: Whether the option of this name is given.

    Raises:
        UnsupportedOptionError: An option is given, and the model reads backward.
    """
    for option, is_given in given.items():
        if is_given and not trained.is_forward:
            raise UnsupportedOptionError(
                option,
                f"the model of {trained.folder} writes from the end to the beginning of a text; "
                "leave the option out",
            )


def banned_text(
    trained: TrainedModel, ban: Sequence[str], before: Sequence[int], *, batch: int
) -> list[BannedText]:
    """Return the constraint that banned texts make, or none.

    Args:
        trained: Model that writes.
        ban: Banned texts.
        before: Ids of the text so far, in reading order.
        batch: Number of sequences that continue it.
    """
    if not ban:
        return []
    constraint = BannedText(
        trained.tokenizer,
        ban,
        before,
        batch=batch,
        device=trained.device,
        backward=not trained.is_forward,
    )
    return [constraint]


def in_reading_order(trained: TrainedModel, ids: list[int]) -> list[int]:
    """Return ids of a text in the order in which the model reads them."""
    return ids if trained.is_forward else ids[::-1]


def in_text_order(trained: TrainedModel, prompt_ids: list[int], ids: list[int]) -> list[int]:
    """Return the ids of prompt and new text in the order of the text."""
    return [*prompt_ids, *ids] if trained.is_forward else [*reversed(ids), *prompt_ids]


def _initial_state(trained: TrainedModel, options: SampleOptions) -> GenerationState | None:
    source = options.state_in
    if source is None:
        return None
    if isinstance(source, GenerationState):
        if not fits(source, trained.model):
            problem = "is the state of another model; continue with the run that wrote it"
            raise UnsupportedOptionError("state_in", problem)
        if source.ended:
            problem = "is that of a text that the model has ended; begin another text"
            raise UnsupportedOptionError("state_in", problem)
        return source
    try:
        data = source.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{source}: cannot be read: {error.strerror}; name a file that holds a saved state"
        ) from None
    state = state_from_bytes(data, trained.model, str(source))
    if state.ended:
        raise CheckpointError(f"{source}: the model has ended this text; begin another one")
    return state
