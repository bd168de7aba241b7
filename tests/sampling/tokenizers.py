"""What the tests of generated text share: a tokenizer of every level, and texts of a model."""

import torch

from charlm.config.model import Model
from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import Tokenizer
from charlm.data.vocabulary import learn_tokenizer
from charlm.model.language_model import LanguageModel
from charlm.sampling.constraints.banned_text import BannedText
from charlm.sampling.generator import Generator, GeneratorOptions
from charlm.sampling.options import Filters, StopCondition
from charlm.sampling.saved_state import GenerationState
from charlm.sampling.text_stream import TextBatch, TextStream

TEXT = "the cat ate the éclair that the other cat saw\n"
SECTIONS = {
    "char": Section(level="char"),
    "byte": Section(level="byte"),
    "word": Section(level="word"),
    "bpe": Section(level="bpe", vocabulary_size=270),
    "words between spaces": Section(level="word", words="whitespace"),
}
TOKENIZERS = {name: learn_tokenizer([TEXT * 20], section) for name, section in SECTIONS.items()}


def make_model(vocabulary: int) -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(Model(hidden_size=6, embedding_size=4), vocabulary).eval()
    with torch.no_grad():
        model.projection.weight *= 3
    return model


def generate_texts(
    tokenizer: Tokenizer,
    prompt: str,
    stop: StopCondition,
    *,
    numbers: tuple[int, ...] = (0, 1, 2, 3),
    ban: tuple[str, ...] = (),
    state: GenerationState | None = None,
) -> TextBatch:
    """Return complete texts of an untrained model."""
    ids = tokenizer.encode(prompt).tolist()
    constraints = []
    if ban:
        device = torch.device("cpu")
        constraints = [BannedText(tokenizer, ban, ids, batch=len(numbers), device=device)]
    generator = Generator(
        make_model(tokenizer.vocabulary_size),
        ids,
        GeneratorOptions(numbers, 1, Filters(temperature=1)),
        constraints=constraints,
        state=state,
    )
    before, num_shown = (state.ids, state.num_shown) if state else ([], 0)
    streams = [
        TextStream(tokenizer, ids, stop, before=before, num_shown=num_shown) for _ in numbers
    ]
    texts = TextBatch(generator, streams, max_tokens=stop.max_tokens)
    texts.finish()
    return texts
