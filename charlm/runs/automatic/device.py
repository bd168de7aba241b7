"""The speed of this device for the networks that a text, its settings and a recipe lead to."""

from charlm.config.schema import Config
from charlm.config.tokenizer import VOCABULARY_SIZES
from charlm.runs.automatic.fields import NGRAMS, direction, network_fields
from charlm.runs.automatic.plan import batch_shape
from charlm.runs.automatic.recipes import recipe_for
from charlm.runs.automatic.speed import Speed, measured_speed
from charlm.runs.automatic.text import TextFacts
from charlm.training.devices import Hardware, choose_device, choose_precision


def device_speed(config: Config, text: TextFacts) -> Speed:
    """Return the speed of the device, which is measured when it is first asked for.

    It is that of a network with n-grams for each size that would have them; see `model_fields`.
    The passes that decide are those of the network with n-grams, which takes fewer steps.
    """
    model, limit = config.model, recipe_for(text).passes_with_ngrams
    if "ngrams" in model.model_fields_set:
        return _measured_speed(config, text, model.ngrams)
    plain = _measured_speed(config, text, ngrams=0)
    slower = _measured_speed(config, text, ngrams=NGRAMS)

    def speed(hidden_size: int) -> float:
        tokens_per_second = slower(hidden_size)
        passes = tokens_per_second * 60 * (config.training.minutes or 0.0) / text.tokens
        return tokens_per_second if passes <= limit else plain(hidden_size)

    return speed


def _measured_speed(config: Config, text: TextFacts, ngrams: int) -> Speed:
    """Return the speed of networks with n-grams up to a length; 0 for none."""
    training = config.training
    device = choose_device(training.device)
    batch_size, length, _ = batch_shape(config, text)
    if config.task.has_pairs:  # A step of long records would take seconds.
        length = min(length, recipe_for(text).window)
    is_set = "optimizer" in training.model_fields_set
    fields = {
        "steps": 10**9,
        "optimizer": training.optimizer if is_set else recipe_for(text).optimizer,
        "batch_size": batch_size,
        "window": length,
        "accumulation": training.accumulation,
        "cuda_graph": training.cuda_graph and not config.task.has_pairs,
    }
    one_network = measured_speed(
        fields,
        vocabulary_size=_vocabulary_size(config, text),
        hardware=Hardware(device, choose_precision(training.precision, device)),
        network=lambda size: network_fields(config.model, recipe_for(text), size, ngrams),
    )
    num_networks = 2 if direction(config) == "both" else 1
    return lambda size: one_network(size) / num_networks


def _vocabulary_size(config: Config, text: TextFacts) -> int:
    """Return the number of tokens in the vocabulary that is measured.

    A larger vocabulary of words or subwords than the default one is measured as the default one:
    its steps would take seconds, and few texts fill it.
    """
    size = VOCABULARY_SIZES[text.level] or text.alphabet_size + 2  # With <EOS> and <UNK>.
    return min(size, config.tokenizer.vocabulary_size or size)
