"""Export to transformers: a folder for `AutoModelForCausalLM.from_pretrained`."""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.processors import TemplateProcessing

from charlm.data.tokenizer import EOS, EOS_TEXT, UNK, UNK_TEXT
from charlm.export.card import card_of
from charlm.export.module import (
    import_file,
    language_model_source,
    module_config,
    module_tensors,
)
from charlm.export.options import ExportOptions
from charlm.export.verification import Computed, Passage
from charlm.trained_model import TrainedModel

CONFIGURATION, MODELING = "configuration_charlm", "modeling_charlm"
_CONFIGURATION_SOURCE = '''"""The configuration of a recurrent language model exported by charlm."""

from transformers import PreTrainedConfig


class CharlmConfig(PreTrainedConfig):
    """Sizes of the network; its cell is in modeling_charlm.py."""

    model_type = "charlm"

    def __init__(
        self,
        vocab_size: int = 2,
        embedding_size: int = 1,
        hidden_sizes: tuple[int, ...] = (1,),
        **options: object,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_sizes = list(hidden_sizes)
        self.hidden_size = self.hidden_sizes[-1]
        self.num_hidden_layers = len(self.hidden_sizes)
        super().__init__(**options)
'''
_BEGINNING = '''"""A recurrent language model for transformers, exported by charlm."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_charlm import CharlmConfig

'''
_CAUSAL_LM = '''

class RecurrentCache:
    """The states after the tokens that were read: all that a recurrent network keeps of them."""

    is_compileable = False
    is_linear = (False,)

    def __init__(self, states: list[State], length: int) -> None:
        self.states = states
        self.length = length

    def get_seq_length(self, layer: int = 0) -> int:
        """Return the number of tokens that were read, padding included."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row continue from the states of another, as a beam search does."""
        self.states = [
            tuple(tensor.index_select(0, beam_idx.to(tensor.device)) for tensor in layer)
            for layer in self.states
        ]


@dataclass
class CharlmOutput(ModelOutput):
    """Loss if there are labels, logits (batch, time, vocabulary), and states."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: RecurrentCache | None = None


class CharlmForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model with the interface of transformers. Padding is not read."""

    config_class = CharlmConfig
    base_model_prefix = "model"
    _is_stateful = True  # It cannot go back to an earlier token.

    def __init__(self, config: CharlmConfig) -> None:
        super().__init__(config)
        self.model = LanguageModel(config.vocab_size, config.embedding_size, config.hidden_sizes)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: RecurrentCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **options: object,
    ) -> CharlmOutput | tuple:
        """Read ids, (batch, time). The attention mask is 0 where a token is padding."""
        batch, time = input_ids.shape
        states = self.model.initial_states(batch) if cache is None else cache.states
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -time:]
        logits, states = self.model(input_ids.T, states, mask.T.bool())
        logits = logits.transpose(0, 1)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        length = time if cache is None else cache.length + time
        output = CharlmOutput(
            loss=loss,
            logits=logits[:, -logits_to_keep:],
            cache=None if use_cache is False else RecurrentCache(states, length),
        )
        return output.to_tuple() if return_dict is False else output
'''


def write(trained: TrainedModel, options: ExportOptions, path: Path) -> None:
    """Write the folder."""
    path.mkdir()
    files = {
        f"{CONFIGURATION}.py": _CONFIGURATION_SOURCE,
        f"{MODELING}.py": modeling_source(trained),
        "config.json": _json(_config(trained)),
        "generation_config.json": _json(_generation_config(trained)),
        "tokenizer.json": _tokenizer_json(trained),
        "tokenizer_config.json": _json(_tokenizer_config()),
        "README.md": card_of(trained, None, target="transformers") + "\n",
    }
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    tensors = {f"model.{name}": tensor for name, tensor in module_tensors(trained).items()}
    (path / "model.safetensors").write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))


def modeling_source(trained: TrainedModel) -> str:
    """Return the source of the modeling file."""
    source = language_model_source(trained.config.model, masked=True) + "\n" + _CAUSAL_LM
    if "F." in source:
        return _BEGINNING + source
    return _BEGINNING.replace("from torch.nn import functional as F\n", "") + source


def compute(path: Path, passage: Passage, options: ExportOptions) -> Computed:
    """Compute logits by the classes in the folder, as transformers loads them."""
    import transformers

    with _package_of(path) as package, _without_progress_bar():
        model = package.CharlmForCausalLM.from_pretrained(path).eval()
        with torch.inference_mode():
            logits = [
                model(torch.tensor([inputs])).logits[0].float().numpy() for inputs in passage.inputs
            ]
    return Computed(logits, f"transformers {transformers.__version__}")


def _config(trained: TrainedModel) -> dict[str, Any]:
    facts = module_config(trained)
    return {
        "architectures": ["CharlmForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{CONFIGURATION}.CharlmConfig",
            "AutoModelForCausalLM": f"{MODELING}.CharlmForCausalLM",
        },
        "model_type": "charlm",
        "dtype": "float32",
        "vocab_size": facts.pop("vocabulary_size"),
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": False,  # A shared matrix occurs only once in the module.
        **facts,
    }


def _generation_config(trained: TrainedModel) -> dict[str, Any]:
    """Return how `generate` ends and pads a text: as `charlm sample` does.

    In stream mode <EOS> does not end a text. Then there is no padding after the end either; and
    <EOS> at the beginning, which a tokenizer also pads with, is not taken for padding.
    """
    ends = {"eos_token_id": EOS, "pad_token_id": EOS} if trained.writes_records else {}
    return {"bos_token_id": EOS, "suppress_tokens": [UNK], **ends}


def _tokenizer_json(trained: TrainedModel) -> str:
    """Return the tokenizer, which puts the <EOS> before a text that a model reads first."""
    library = HuggingFaceTokenizer.from_str(trained.tokenizer.to_json())
    library.post_processor = TemplateProcessing(
        single=f"{EOS_TEXT} $A",
        pair=f"{EOS_TEXT} $A {EOS_TEXT} $B",
        special_tokens=[(EOS_TEXT, EOS)],
    )
    return str(library.to_str(pretty=True))


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "TokenizersBackend",
        "bos_token": EOS_TEXT,
        "eos_token": EOS_TEXT,
        "pad_token": EOS_TEXT,
        "unk_token": UNK_TEXT,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # In a text, <EOS> is five characters, as for charlm.
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _package_of(path: Path) -> Iterator[Any]:
    """Import the two files of a folder as a package, and return the modeling module."""
    name = "charlm_exported_package"
    package = module_from_spec(ModuleSpec(name, None, is_package=True))
    try:
        sys.modules[name] = package
        for file in (CONFIGURATION, MODELING):
            full = f"{name}.{file}"
            sys.modules[full] = import_file(path / f"{file}.py", full)
        yield sys.modules[f"{name}.{MODELING}"]
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == name]:
            del sys.modules[key]
        importlib.invalidate_caches()
