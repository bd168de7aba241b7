"""The network: from token ids and a state to logits and the next state."""
