"""Export to torch: weights under torch's names, and one module that reads them without charlm."""

import json
from pathlib import Path

import safetensors.torch
import torch

from charlm.data.tokenizer import EOS
from charlm.export.module import (
    import_file,
    language_model_source,
    module_config,
    module_tensors,
)
from charlm.export.options import ExportOptions
from charlm.export.verification import Computed, Passage
from charlm.trained_model import TrainedModel

MODULE, WEIGHTS, TOKENIZER, CONFIG = (
    "model.py",
    "model.safetensors",
    "tokenizer.json",
    "config.json",
)

_BEGINNING = '''"""A recurrent language model, exported by charlm.

It needs torch, safetensors and tokenizers, but not charlm. In the folder of this file:

    from model import load

    model = load()
    print(model.generate(length=200, temperature=0.8, seed=1))
    print(model.loss_nats("A text."))
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

EOS, UNK = 0, 1  # <EOS> begins and ends a text; <UNK> stands for what the vocabulary lacks.
'''
_TEXT_MODEL = '''

@dataclass
class TextModel:
    """A language model with the tokenizer of its text."""

    model: LanguageModel
    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without <EOS>."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_whole(self, text: str) -> list[int]:
@WHOLE@

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids; <EOS> is written as EOS_TEXT."""
        parts: list[list[int]] = [[]]
        for index in ids:
            if index == EOS:
                parts.append([])
            else:
                parts[-1].append(index)
        return EOS_TEXT.join(self.tokenizer.decode(part) for part in parts)

    @torch.inference_mode()
    def loss_nats(self, *texts: str) -> float:
        """Return the mean loss in nats per token of texts, each from the initial state."""
        total, count = 0.0, 0
        for text in texts:
            targets = torch.tensor(@READ@(self.encode_whole(text)))
            inputs = torch.cat([torch.tensor([EOS]), targets[:-1]])
            logits, _ = self.model(inputs[:, None])
            total += F.cross_entropy(logits[:, 0].double(), targets, reduction="sum").item()
            count += len(targets)
        return total / count

    @torch.inference_mode()
    def generate(
        self, prompt: str = "", length: int = 200, temperature: float = 1.0, seed: int = 1
    ) -> str:
        """Continue a prompt by at most `length` tokens; temperature 0 takes the most probable."""
        random = torch.Generator().manual_seed(seed)
        ids = self.encode(prompt)@REVERSED@
        logits, states = self.model(torch.tensor([[EOS], *([index] for index in ids)]))
        for _ in range(length):
            scores = logits[-1, 0]
            scores[UNK] = -torch.inf
            if temperature == 0:
                index = int(scores.argmax())
            else:
                probabilities = torch.softmax(scores / temperature, dim=-1)
                index = int(torch.multinomial(probabilities, 1, generator=random))
            if index == EOS and ENDS_WITH_EOS:
                break
            ids.append(index)
            logits, states = self.model(torch.tensor([[index]]), states)
        return self.decode(ids@REVERSED@)


@READ_FUNCTION@def load(folder: str | Path = Path(__file__).parent) -> TextModel:
    """Load the model and its tokenizer from the folder of this file."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    model = LanguageModel(
        config["vocabulary_size"], config["embedding_size"], config["hidden_sizes"]
    )
    model.load_state_dict(load_file(Path(folder, "model.safetensors")))
    return TextModel(model.eval(), Tokenizer.from_file(str(Path(folder, "tokenizer.json"))))
'''
_WHOLE = {
    "document": '''
        """Return the ids of a text with the <EOS> that ends it."""
        return [*self.encode(text), EOS]
''',
    "none": '''
        """Return the ids of a text, which no <EOS> ends."""
        return self.encode(text)
''',
    "line": '''
        """Return the ids of a text with an <EOS> after each line."""
        lines = re.findall(r"[^\\n]*\\n|[^\\n]+", text)
        return [index for line in lines for index in [*self.encode(line), EOS]]
''',
    "sentence": '''
        """Return the ids of a text with an <EOS> after each sentence."""
        end = r"""[.!?]["')\\]]*[ \\t\\n\\r\\f\\v]|[\\u3002\\uff01\\uff1f]"""
        starts = [0, *(match.end() for match in re.finditer(end, text))]
        sentences = [text[start:stop] for start, stop in pairwise([*starts, len(text)])]
        return [index for part in sentences if part for index in [*self.encode(part), EOS]]
''',
    "whitespace": '''
        """Return the ids of a text with an <EOS> at the end of each line."""
        ids = self.encode(text)
        return ids if ids[-1:] == [EOS] else [*ids, EOS]
''',
}
_READ_BACKWARD = '''
def in_reading_order(ids: list[int]) -> list[int]:
    """Return the ids of a text from its end; an <EOS> that ends the text stays the last."""
    if ids[-1:] == [EOS]:
        return [*ids[-2::-1], EOS]
    return ids[::-1]


'''


def write(trained: TrainedModel, options: ExportOptions, path: Path) -> None:
    """Write the folder: module, weights, tokenizer and configuration."""
    path.mkdir()
    config = json.dumps(module_config(trained), indent=2)
    files = {
        MODULE: module_source(trained),
        TOKENIZER: trained.tokenizer.to_json(),
        CONFIG: config + "\n",
    }
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    weights = safetensors.torch.save(module_tensors(trained), {"format": "pt"})
    (path / WEIGHTS).write_bytes(weights)


def module_source(trained: TrainedModel) -> str:
    """Return the source of the module."""
    facts = [
        f"EOS_TEXT = {json.dumps(trained.tokenizer.decode([EOS]))}  # What <EOS> adds to a text.",
        f"ENDS_WITH_EOS = {trained.writes_records}  # Whether a text that is generated ends there.",
    ]
    source = language_model_source(trained.config.model)
    return _beginning(trained) + "\n".join(facts) + "\n\n" + source + "\n" + _text_model(trained)


def _end_of_text(trained: TrainedModel) -> str:
    """Return where <EOS> is in a text of the model: a key of `_WHOLE`."""
    if trained.writes_records:
        return "document"
    return "whitespace" if trained.tokenizer.separates_by_space else trained.tokenizer.section.eos


def _beginning(trained: TrainedModel) -> str:
    imports = {"line": "import re\n", "sentence": "import re\n"}.get(_end_of_text(trained), "")
    pairwise = "from itertools import pairwise\n" if _end_of_text(trained) == "sentence" else ""
    return _BEGINNING.replace("import json\n", f"import json\n{imports}").replace(
        "from pathlib", f"{pairwise}from pathlib"
    )


def _text_model(trained: TrainedModel) -> str:
    """Return the class of the model with its tokenizer, for its direction of reading."""
    whole = _WHOLE[_end_of_text(trained)].strip("\n")
    is_forward = trained.is_forward
    source = _TEXT_MODEL.replace("@WHOLE@", whole)
    source = source.replace("@REVERSED@", "" if is_forward else "[::-1]")
    source = source.replace("@READ_FUNCTION@", "" if is_forward else _READ_BACKWARD.lstrip("\n"))
    if is_forward:
        return source.replace("@READ@(self.encode_whole(text))", "self.encode_whole(text)")
    return source.replace("@READ@", "in_reading_order").replace(
        "Continue a prompt by", "Write before a prompt"
    )


def compute(path: Path, passage: Passage, options: ExportOptions) -> Computed:
    """Compute logits by the module and the weights of the folder."""
    model = import_file(path / MODULE, "exported_model").load(path).model
    logits = []
    with torch.inference_mode():
        for inputs in passage.inputs:
            rows, _ = model(torch.tensor(inputs)[:, None])
            logits.append(rows[:, 0].float().numpy())
    return Computed(logits, f"torch {torch.__version__} with {MODULE}")
