"""Facts that must be equal where a file is decompressed: software, model, tokenizer, arithmetic."""

import hashlib
import json

import torch

from charlm.compression.coder import TokenPredictor, arithmetic_checksum
from charlm.compression.container import Fingerprint
from charlm.errors import CheckpointError
from charlm.model.language_model import named_weights
from charlm.storage.untrusted import one_line
from charlm.version import VERSION

# Message if a field differs; {0} is the value in the file, {1} the value here. The other fields are
# for information: another version of charlm or another processor may compute the same bits.
_MESSAGES = {
    "torch": "was compressed with torch {0}, but this is torch {1}, which may compute other "
    "numbers: pip install torch=={0}",
    "weights": "was compressed with another model (weights {0}, here {1}); name its run: charlm "
    "decompress --run RUN",
    "tokenizer": "was compressed with another tokenizer ({0}, here {1}); name its run: charlm "
    "decompress --run RUN",
    "arithmetic": "this machine computes other numbers than the machine that compressed it "
    "(arithmetic {0}, here {1}); decompress it there",
}


def fingerprint_of(predictor: TokenPredictor, num_streams: int) -> Fingerprint:
    """Return the fingerprint of a model on this machine."""
    alphabet = predictor.alphabet
    rules = [
        alphabet.tokenizer.to_json(),
        alphabet.tokenizer.section.model_dump(),
        alphabet.mode,
        alphabet.separator,
        # Left out for lines, so that files of earlier versions have the same rules.
        *([alphabet.record] if alphabet.record == "document" else []),
    ]
    return Fingerprint(
        charlm=VERSION.encode(),
        torch=torch.__version__.encode(),
        processor=torch.backends.cpu.get_cpu_capability().encode(),
        weights=_weights_checksum(predictor),
        tokenizer=hashlib.sha256(json.dumps(rules).encode()).digest()[:4],
        arithmetic=arithmetic_checksum(predictor, num_streams),
    )


def check_fingerprint(in_file: Fingerprint, here: Fingerprint, name: str) -> None:
    """Check that a file can be decompressed here; `name` is its name in error messages.

    Raises:
        CheckpointError: A field of the fingerprint differs.
    """
    for field, message in _MESSAGES.items():
        old, new = getattr(in_file, field), getattr(here, field)
        if old != new:
            raise CheckpointError(one_line(f"{name}: {message.format(_show(old), _show(new))}"))


def _weights_checksum(predictor: TokenPredictor) -> bytes:
    # Not `weights_checksum` of saved states, which covers other bytes: the checksum is in files.
    digest = hashlib.sha256(predictor.direction.encode())
    for name, weight in named_weights(predictor.model):
        digest.update(name.encode())
        digest.update(weight.detach().numpy().tobytes())
    return digest.digest()[:4]


def _show(value: bytes) -> str:
    return value.hex() if len(value) == 4 else value.decode(errors="replace")
