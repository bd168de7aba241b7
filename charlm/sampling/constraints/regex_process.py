"""The process that turns a regular expression into an automaton over bytes, with limits.

It reads the expression from stdin and writes the automaton to stdout. Its arguments are the folders
to import from.
"""

import sys
from array import array

SECONDS = 2
# Exit statuses. Any other one means that the automaton is too large.
NO_REGEX = 10
NO_MATCH = 11
# A noncharacter that marks the beginning and the end of the text. The library's automata prefer the
# first alternative that matches: without a mark they would never match the second one of a|ab.
MARK = "\U0010ffff"
_MEGABYTES = 512
_EOS_ID = 256  # The library needs one.
_MARK_ID = 257


def build(expression: str) -> bytes | int:
    """Return the automaton of the texts between two marks that match, or an exit status.

    The automaton consists of integers of 32 bits: the first state, the number of final states,
    these states, and for each state the state after each of 256 bytes. State 0 is dead.
    """
    from outlines_core import Index, Vocabulary  # type: ignore[import-untyped]  # It has no types.

    tokens = {bytes([byte]): [byte] for byte in range(256)} | {MARK.encode(): [_MARK_ID]}
    try:
        index = Index(expression, Vocabulary(_EOS_ID, tokens))
    except ValueError as error:  # "Incompatible" is a state that no byte leaves.
        return NO_MATCH if "incompatible with the regex" in str(error) else NO_REGEX
    transitions: dict[int, dict[int, int]] = index.get_transitions()
    first = transitions.get(index.get_initial_state(), {}).get(_MARK_ID)
    if first is None:
        return NO_MATCH
    numbers = {state: number for number, state in enumerate(transitions, 1)}
    table = array("i", bytes(4 * 256 * (len(numbers) + 1)))
    for state, row in transitions.items():
        for byte, target in row.items():
            if byte < 256:
                table[256 * numbers[state] + byte] = numbers[target]
    ends = index.get_final_states()
    final = [numbers[state] for state, row in transitions.items() if row.get(_MARK_ID) in ends]
    header = array("i", [numbers[first], len(final), *final])
    return header.tobytes() + table.tobytes()


def _limit_resources() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEGABYTES << 20, _MEGABYTES << 20))
    except (ImportError, OSError, ValueError):
        pass  # Not every system has these limits; the caller limits the time, too.


if __name__ == "__main__":
    sys.path[:] = sys.argv[1:]
    _limit_resources()
    result = build(sys.stdin.buffer.read().decode())
    if isinstance(result, int):
        sys.exit(result)
    sys.stdout.buffer.write(result)
