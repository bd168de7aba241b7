"""Generate text from a file of `charlm export --to onnx`, without charlm and without torch.

pip install onnxruntime tokenizers
python examples/generate_onnx.py x.onnx --prompt "The " --length 300 --temperature 0.8 --seed 1
"""

import argparse
import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

parser = argparse.ArgumentParser(description="Generate text from an ONNX file of charlm.")
parser.add_argument("file")
parser.add_argument("--prompt", default="", help="beginning of the text")
parser.add_argument("--length", type=int, default=200, help="largest number of new tokens [200]")
parser.add_argument("--temperature", type=float, default=0.8, help="0: the most probable [0.8]")
parser.add_argument("--seed", type=int)
options = parser.parse_args()

session = onnxruntime.InferenceSession(options.file, providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map
tokenizer = Tokenizer.from_str(facts["tokenizer"])
eos, unknown = int(facts["eos_id"]), int(facts["unknown_id"])
names = [item.name for item in session.get_inputs()]  # token, state_0, state_1 ...
states = [np.array([state], np.float32) for state in json.loads(facts["initial_states"])]
random = np.random.default_rng(options.seed)
step = 1 if facts["direction"] == "forward" else -1  # Backward: from the last token to the first.

ids = tokenizer.encode(options.prompt).ids[::step]
unread = [eos, *ids]  # Every text begins after an <EOS>.
for _ in range(options.length):
    for token in unread:
        inputs = dict(zip(names, [np.array([token]), *states], strict=True))
        logits, *states = session.run(None, inputs)
    scores = logits[0].astype(np.float64)
    scores[unknown] = -np.inf
    if options.temperature:  # The largest sum is a draw from the softmax.
        scores = scores / options.temperature + random.gumbel(size=scores.shape)
    unread = [int(scores.argmax())]
    if unread == [eos] and facts["mode"] == "records":
        break
    ids += unread

ids = np.array(ids[::step])
documents = np.split(ids, np.flatnonzero(ids == eos))
print(facts["eos_text"].join(tokenizer.decode(part[part != eos]) for part in documents))
