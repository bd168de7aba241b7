"""Options are checked in one place: ranges, conflicts, and names."""

import math

import pytest

from charlm.errors import OptionError
from charlm.sampling.options import (
    ConstraintOptions,
    FillOptions,
    Filters,
    SampleOptions,
    SearchOptions,
    StopCondition,
    build_options,
)

OUT_OF_RANGE = [
    (Filters, "temperature", -1),
    (Filters, "temperature", math.inf),
    (Filters, "top_k", 0),
    (Filters, "top_p", 2),
    (Filters, "min_p", -0.1),
    (Filters, "typical", 1.1),
    (Filters, "epsilon", math.nan),
    (Filters, "eta", -1),
    (Filters, "repetition_penalty", 0),
    (Filters, "repetition_penalty", 1e-300),
    (Filters, "no_repeat_ngram", 0),
    (Filters, "presence_penalty", 2.1),
    (Filters, "frequency_penalty", -math.inf),
    (StopCondition, "length", 0),
    (StopCondition, "characters", 0),
    (ConstraintOptions, "max_copy", 0),
    (SampleOptions, "count", 0),
    (SampleOptions, "best_of", 0),
    (SampleOptions, "length_penalty", -1),
    (SampleOptions, "seed", -1),
]


def test_a_value_out_of_its_range_is_refused_with_its_option():
    for kind, name, value in OUT_OF_RANGE:
        with pytest.raises(OptionError, match=rf"^{name}: must be .*got {value!r}$") as caught:
            kind(**{name: value})
        assert caught.value.option == name, name
    for kind, name in ((StopCondition, "until"), (ConstraintOptions, "ban")):
        with pytest.raises(OptionError, match=f"^{name}: must not be empty"):
            kind(**{name: ("a", "")})
    for pair, value in (((-1, 0.0), "-1"), ((3, 100.5), "100.5"), ((3, math.nan), "nan")):
        with pytest.raises(OptionError, match=rf"^logit_bias: must be .*got {value}$"):
            Filters(logit_bias=(pair,))
    assert build_options(SampleOptions, {"logit_bias": {3: 1}}).filters.logit_bias == ((3, 1),)
    with pytest.raises(OptionError, match=r"^repetition_window: must be at least 1, got 0"):
        Filters(repetition_penalty=2, repetition_window=0)


# The option that is refused, the option that it conflicts with, and what is given.
CONFLICTS = [
    (SampleOptions, "repetition_window", "repetition_penalty", {"repetition_window": 3}),
    (SampleOptions, "length_penalty", "best_of", {"length_penalty": 1}),
    (SampleOptions, "max_copy", "matching", {"matching": "a", "max_copy": 3}),
    (SampleOptions, "characters", "matching", {"matching": "", "characters": 3}),
    (SampleOptions, "until", "matching", {"matching": "a", "until": ["a"]}),
    (SampleOptions, "state_out", "matching", {"matching": "a", "state_out": True}),
    (SampleOptions, "count", "state_out", {"state_out": True, "count": 2}),
    (SampleOptions, "best_of", "state_out", {"state_out": True, "best_of": 2}),
    (SampleOptions, "novel", "state_out", {"state_out": True, "novel": True}),
    (SampleOptions, "max_copy", "state_out", {"state_out": True, "max_copy": 3}),
    (SearchOptions, "beams", "count", {"beams": 2, "count": 3}),
    (SearchOptions, "temperature", "beams", {"beams": 2, "temperature": 1.0}),
    (SearchOptions, "seed", "beams", {"beams": 2, "seed": 1}),
    (SearchOptions, "novel", "beams", {"beams": 2, "novel": True}),
    (FillOptions, "top_k", "fill", {"text": "a ___", "top_k": 3}),
    (FillOptions, "prompt", "fill", {"text": "a ___", "prompt": "b"}),
    (FillOptions, "beams", "fill", {"text": "a ___", "beams": 3}),
]


def test_options_that_exclude_each_other_are_refused_with_both_names():
    for kind, option, other, given in CONFLICTS:
        with pytest.raises(OptionError) as caught:
            build_options(kind, given)
        assert caught.value.option == option, given
        assert other in caught.value.others, given


def test_a_text_to_fill_must_have_exactly_one_gap():
    assert FillOptions("The ____ were full.").pieces == ["The ", " were full."]
    for text in ("The cups", "The ____ were ___"):
        with pytest.raises(OptionError, match=r"^fill: .*one gap"):
            FillOptions(text)


def test_flat_names_build_the_nested_options():
    options = build_options(
        SampleOptions,
        {"temperature": 0.5, "length": 20, "until": ["."], "ban": None, "max_copy": 8, "seed": 3},
    )
    assert options == SampleOptions(
        stop=StopCondition(length=20, until=(".",)),
        filters=Filters(temperature=0.5),
        constraints=ConstraintOptions(max_copy=8),
        seed=3,
    )
    assert build_options(SearchOptions, {"beams": 4, "characters": 9}) == SearchOptions(
        beams=4, stop=StopCondition(characters=9)
    )


def test_the_temperature_is_0_8_unless_another_is_given():
    assert SampleOptions().filters.temperature == Filters(top_k=3).temperature == 0.8
    assert build_options(SampleOptions, {"top_k": 3}).filters.temperature == 0.8
    assert FillOptions("a ____").temperature == 0.8
    assert build_options(SampleOptions, {"temperature": 1}).filters.active == ()


def test_an_unknown_name_is_a_type_error():
    for kind in (SampleOptions, SearchOptions):
        nearest = r"^temprature: no such option \(nearest: temperature\)$"
        with pytest.raises(TypeError, match=nearest):
            build_options(kind, {"temprature": 1, "beams": 2 if kind is SearchOptions else None})
