"""Texts end where they should, whatever their tokens are, and continue without a trace."""

from sampling.tokenizers import TOKENIZERS, generate_texts

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.vocabulary import learn_tokenizer
from charlm.sampling.options import StopCondition
from charlm.sampling.text_stream import TextStream


def test_a_text_is_cut_exactly_at_its_number_of_characters():
    for level, tokenizer in TOKENIZERS.items():
        prompt_length = len(tokenizer.decode(tokenizer.encode("the ")))
        for characters in (1, 7, 100):
            texts = generate_texts(tokenizer, "the ", StopCondition(characters=characters))
            lengths = {len(stream.text) for stream in texts.streams}
            assert lengths == {prompt_length + characters}, (level, characters)


def test_a_text_ends_with_the_first_of_its_stop_strings():
    for level, tokenizer in TOKENIZERS.items():
        for until in (("e",), ("th", "at"), ("cat",), ("t e",)):
            stop = StopCondition(length=400, until=until)
            streams = generate_texts(tokenizer, "the ca", stop).streams
            for stream in streams:
                written = stream.text[len("the ca") :]
                assert not any(text in written[:-1] for text in until), (level, until)
                assert not stream.ended or stream.text.endswith(until), (level, until)
            assert until != ("e",) or any(stream.ended for stream in streams), level


def test_the_end_of_one_text_leaves_the_others_unchanged():
    for level, tokenizer in TOKENIZERS.items():
        stop = StopCondition(length=60, until=("e",))
        together = generate_texts(tokenizer, "", stop)
        for number, stream in enumerate(together.streams):
            (alone,) = generate_texts(tokenizer, "", stop, numbers=(number,)).streams
            assert alone.text == stream.text, (level, number)


def test_a_text_in_two_parts_is_the_text_at_once_whatever_a_token_is():
    for level, tokenizer in TOKENIZERS.items():
        (whole,) = generate_texts(
            tokenizer, "the éc", StopCondition(length=80), numbers=(0,)
        ).streams
        whole.flush()
        for length in (1, 2, 3, 10, 37):
            first = generate_texts(tokenizer, "the éc", StopCondition(length=length), numbers=(0,))
            text = first.streams[0].text
            state = first.generator.generation_state(num_shown=len(text))
            stop = StopCondition(length=80 - length)
            (rest,) = generate_texts(tokenizer, "", stop, numbers=(0,), state=state).streams
            rest.flush()
            assert text + rest.continuation == whole.text, (level, length)


def test_characters_of_a_token_that_were_not_shown_begin_the_next_part():
    tokenizer = learn_tokenizer(["cat dog owl " * 30], Section(level="word"))
    cat, dog = tokenizer.encode("cat dog").tolist()
    first = TextStream(tokenizer, [], StopCondition(characters=5))
    first.feed(cat)
    first.feed(dog)
    assert first.text == "cat d" and first.ended
    stop = StopCondition(characters=4)
    second = TextStream(tokenizer, [], stop, before=[cat, dog], num_shown=5)
    assert second.new_text() == "og"
    second.feed(dog)
    assert second.new_text() == " d"
    assert second.continuation == "og d" and second.ended


def test_a_stop_string_that_is_left_out_is_new_text_as_a_whole():
    tokenizer = TOKENIZERS["char"]
    stop = StopCondition(until=("the", "cat"), includes_until=False)
    stream = TextStream(tokenizer, tokenizer.encode("at").tolist(), stop)
    stream.skip_prompt()
    shown = []
    for token in tokenizer.encode("he tth thecat").tolist():
        stream.feed(token)
        shown.append(stream.new_text(is_last=False))
    assert "".join(shown) == "he tth " and stream.text == "athe tth "
    assert stream.ended and stream.stopped
    # What may begin a stop string is held back until another character follows.
    assert shown[:8] == ["h", "e", " ", "", "t", "", "th ", ""]


def test_the_end_of_a_text_is_shown_even_if_it_may_begin_a_stop_string():
    tokenizer = TOKENIZERS["char"]
    stream = TextStream(tokenizer, [], StopCondition(until=("tht",), includes_until=False))
    for token in tokenizer.encode("ath").tolist():
        stream.feed(token)
    assert stream.new_text(is_last=False) == "a"
    stream.flush()
    assert stream.new_text() == "th"


def test_a_limit_of_characters_within_a_stop_string_is_not_a_stop():
    tokenizer = TOKENIZERS["char"]
    for characters, stopped in ((3, False), (4, True)):
        stop = StopCondition(characters=characters, until=("the",))
        stream = TextStream(tokenizer, [], stop)
        for token in tokenizer.encode("athe").tolist():
            stream.feed(token)
        assert stream.ended and stream.stopped == stopped
        assert stream.text == "athe"[:characters]
