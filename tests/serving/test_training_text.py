"""The training text that the page compares a text with."""

from types import SimpleNamespace

import torch
from conftest import small_config

from charlm.data.suffix_index import SuffixIndex
from charlm.data.vocabulary import learn_tokenizer
from charlm.serving import training_text


def test_a_copy_of_characters_of_several_bytes_is_masked(monkeypatch):
    text = "日本語の本"
    tokenizer = learn_tokenizer([text], small_config("x", "tokenizer.level=byte").tokenizer)
    trained = SimpleNamespace(tokenizer=tokenizer, writes_records=False, record_separator=None)
    monkeypatch.setattr(training_text, "_check_size", lambda trained: None)
    training = training_text.TrainingText(trained, lambda: SuffixIndex(text.encode()))
    *ids, last = tokenizer.encode(text).tolist()
    for max_copy, is_masked in ((4, True), (5, False)):
        masked = training.mask_copies(torch.zeros(1, tokenizer.vocabulary_size), ids, max_copy)
        assert bool(masked[0, last] == -torch.inf) == is_masked
