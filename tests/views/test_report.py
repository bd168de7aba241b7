"""The report: its sections, its sentences, and text of models that is hostile."""

import base64
import hashlib
import itertools
import json
import math
import re
from dataclasses import replace

import pytest
from conftest import small_config, train_all

from charlm.api import load, write_report
from charlm.cli.main import run as charlm
from charlm.errors import OptionError
from charlm.evaluation.comparison import Comparison
from charlm.evaluation.probes.agreement import Agreement
from charlm.evaluation.probes.cells import BestUnit, Cells, Unit
from charlm.evaluation.probes.context import Context, LossAtContext
from charlm.evaluation.probes.embeddings import Embeddings
from charlm.evaluation.probes.gates import Gates, GateSaturation
from charlm.evaluation.probes.gradients import Curve, Gradients
from charlm.evaluation.probes.known_letters import KnownLetters, LetterAccuracy
from charlm.evaluation.probes.memory import MeanDependence, Memory
from charlm.version import VERSION
from charlm.views.agreement import describe_agreement
from charlm.views.cells import describe_gates, describe_omitted_labels, describe_units
from charlm.views.context import describe_certainty, describe_context, describe_half_lives
from charlm.views.embeddings import describe_embeddings
from charlm.views.header import describe_comparison, describe_network, describe_runs
from charlm.views.learning import (
    describe_clipping,
    describe_groups,
    describe_losses,
    describe_rate,
    describe_samples,
    training_loss,
    unit_of,
)
from charlm.views.measurements import Measurements, Reason, RunMeasurements
from charlm.views.measuring import measure
from charlm.views.memory import describe_letters, describe_memory
from charlm.views.network import describe_parameters
from charlm.views.options import SECTIONS, ReportOptions
from charlm.views.passages import describe_direction
from charlm.views.report import make_report
from charlm.views.surprisal import describe_classes, describe_positions, describe_surprisal

OPTIONS = ReportOptions(passage_tokens=60, memory_tokens=30, probe_tokens=400)


@pytest.fixture(scope="module")
def run(trained) -> RunMeasurements:
    return measure([load(trained).trained], OPTIONS).runs[0]


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found is not None
    return json.loads(found[1])


def test_a_report_has_every_section_that_the_model_has(trained):
    measurements = measure([load(trained).trained], OPTIONS)
    report = make_report(measurements)
    sections = re.findall(r'<section id="([a-z]+)"', report.html)
    shown = [name for name in SECTIONS if name not in ("task", "agreement")]
    assert sections == [*shown, "omitted"]
    assert "not trained on the corpus agreement" in report.html
    assert f"charlm {VERSION} · report of 1 run<" in report.html
    assert re.search(r"<h1>[^<]* on text\.txt</h1>", report.html)  # Without its folder.
    assert report._repr_html_().startswith("<iframe")


def test_a_notebook_shows_each_figure_with_the_drawings_of_the_report(trained):
    report = make_report(measure([load(trained).trained], OPTIONS))
    assert {"loss", "surprisal", "memory", "context", "gates"} <= set(report.figures)
    for name, figure in report.figures.items():
        html = figure._repr_html_()
        drawings = re.findall(r"<svg.*?</svg>", html)
        assert drawings == re.findall(r"<svg.*?</svg>", figure.render()), name
        assert all(drawing in report.html for drawing in drawings), name
        assert ".charlm{" in html, name
        assert "<script" not in html, name
        assert "<button" not in html, name


def test_several_runs_stand_side_by_side_with_intervals(trained, text_file, tmp_path):
    train_all(small_config(text_file, "model.cell=gru"), tmp_path / "gru")
    runs = [load(trained), load(tmp_path / "gru")]
    path = write_report(runs, tmp_path / "report.html", sections=("curves", "memory"))
    html = path.read_text(encoding="utf-8")
    assert len(re.findall(r'data-mem="\d"', html)) == 2
    assert "95 % interval" in html
    assert [row["name"] for row in data_of(html)["memory"]["runs"]] == ["trained", "gru"]


def test_an_unknown_option_of_a_report_is_named_with_the_nearest_one(trained):
    with pytest.raises(TypeError, match=r"^section: no such option \(nearest: sections\)$"):
        load(trained).report(section=["curves"])


def test_a_run_that_is_given_twice_is_numbered(trained):
    model = load(trained).trained
    options = replace(OPTIONS, sections=("network",))
    assert [run.name for run in measure([model, model], options).runs] == ["trained", "trained (2)"]


def test_a_text_without_words_has_a_report(tmp_path):
    corpus = tmp_path / "signs.txt"
    corpus.write_text("+-*/ " * 200, encoding="utf-8")
    train_all(small_config(corpus, "training.steps=4"), tmp_path / "run")
    html = make_report(measure([load(tmp_path / "run").trained], OPTIONS)).html
    assert "By class of token" in html
    assert "By position in the word" not in html


def test_a_text_whose_bits_are_not_known_has_a_report_in_nats(tmp_path):
    corpus = tmp_path / "turkish.txt"
    corpus.write_text("İstanbul ve İzmir\n" * 60, encoding="utf-8")  # İ has no single small letter.
    settings = ["tokenizer.lowercase=true", "training.steps=4"]
    train_all(small_config(corpus, *settings), tmp_path / "run")
    measurements = measure([load(tmp_path / "run").trained], replace(OPTIONS, sections=("curves",)))
    assert measurements.runs[0].metrics[-1]["bits_per_character"] is None
    html = make_report(measurements, ("curves",)).html
    assert "Validation loss in nats per token: " in html
    assert "<td>None</td>" not in html


def test_the_training_loss_of_a_text_that_is_predicted_exactly_is_a_number(run):
    row = {"loss_nats": 0.0, "bits_per_character": 0.0, "training_loss_nats": math.log(4)}
    assert training_loss(row, unit_of([run])) == pytest.approx(2)


def test_only_the_chosen_sections_are_measured(trained):
    measured = []
    options = replace(OPTIONS, sections=("network",))
    measurements = measure([load(trained).trained], options, report_progress=measured.append)
    assert measured == []
    assert 'id="network"' in make_report(measurements, ("network",)).html
    with pytest.raises(OptionError, match="colours"):
        write_report([load(trained)], sections=("colours",))


def test_only_what_is_measured_is_reported_while_it_is_measured(text_file, tmp_path):
    settings = ["model.direction=backward", "model.embedding=one_hot", "training.steps=2"]
    train_all(small_config(text_file, *settings), tmp_path / "backward")
    train_all(
        small_config(text_file, "model.direction=both", "training.steps=2"), tmp_path / "both"
    )
    models = [load(tmp_path / name).trained for name in ("backward", "both")]
    measured = []
    measurements = measure(models, OPTIONS, report_progress=measured.append)
    assert measured == [
        *(
            f"backward: {name}"
            for name in ("passage", "surprisal", "memory", "context", "gradients")
        ),
        *(f"both: {name}" for name in ("gradients", "embeddings")),
    ]
    for run, name in zip(measurements.runs, ("cells", "passage"), strict=True):
        assert isinstance(getattr(run, name), Reason)
    omitted = make_report(measurements).html.split('id="omitted"')[1].split("</section>")[0]
    assert "<b>Comparison</b> of backward and both: both: model.direction: both gives" in omitted
    assert str(tmp_path) not in omitted


def test_the_page_allows_only_its_own_style_and_script(run):
    measurements = measure([run.trained], replace(OPTIONS, sections=("curves",)))
    html = make_report(measurements, ("curves",)).html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    for kind, element in (("style", "style"), ("script", "script")):
        text = re.search(rf"<{element}>(.*?)</{element}>", html, re.S)
        assert text is not None
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{kind}-src &#x27;sha256-{digest}&#x27;" in policy[1]
    assert "default-src &#x27;none&#x27;" in policy[1]
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert not re.search(r' style="| on[a-z]+="', html)


def test_hostile_text_is_displayed_as_text(text_file, tmp_path):
    hostile = '<script>alert("1")</script>\u202e"\'&</style>\n'
    corpus = tmp_path / ("<b>" * 20 + ".txt")
    corpus.write_text((hostile + text_file.read_text(encoding="utf-8")[:200]) * 9, encoding="utf-8")
    train_all(small_config(corpus, "training.steps=4"), tmp_path / "run")
    options = replace(OPTIONS, text=hostile)
    html = make_report(measure([load(tmp_path / "run").trained], options)).html
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert html.count("</style>") == 1
    assert "<b>" not in html.replace("<b>1", "").split("<body>")[1].split("<main")[0]
    assert "\u202e" not in html
    texts = data_of(html)["surprisal"]["runs"][0]["text"]
    assert "<script>" in "".join(texts)


def test_a_model_of_both_directions_omits_what_it_does_not_have(text_file, tmp_path):
    config = small_config(text_file, "model.direction=both", "training.steps=2")
    train_all(config, tmp_path / "run")
    html = make_report(measure([load(tmp_path / "run").trained], OPTIONS)).html
    assert re.findall(r'<section id="([a-z]+)"', html)[:2] == ["curves", "network"]
    assert "both" in html.split('id="omitted"')[1]


def test_the_command_writes_the_report_and_prints_its_path(trained, capsys, tmp_path):
    out = tmp_path / "page.html"
    arguments = ["view", str(trained), "--only", "curves,network", "--out", str(out)]
    assert charlm(arguments) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert charlm(["view", str(trained), "--only", "curve"]) == 2
    assert "curves" in capsys.readouterr().err


def test_the_name_of_a_file_in_the_place_of_a_passage_is_refused(trained, capsys, tmp_path):
    (tmp_path / "cat").write_text("The cat sat.\n", encoding="utf-8")
    only = ["--only", "surprisal", "--out", str(tmp_path / "page.html")]
    assert charlm(["view", str(trained), "--text", str(tmp_path / "cat"), *only]) == 2
    assert "use --text-file" in capsys.readouterr().err
    assert charlm(["view", str(trained), "--text", "The cat " * 50, *only]) == 0


# Every sentence is true of its data, and differs where the data differ.
_SHARES = {"a": 1.0, "b": 0.5}


def rows(*losses: float, clipped=0.0) -> list[dict]:
    return [
        {
            "step": 100 * number,
            "seconds": 10.0 * number,
            "loss_nats": loss,
            "bits_per_character": loss / 0.6931,
            "clipped_share": clipped,
        }
        for number, loss in enumerate(losses, start=1)
    ]


def test_the_sentence_about_losses_says_whether_validation_loss_rose(run):
    falling = replace(run, name="falling", metrics=rows(3, 2, 1))
    rising = replace(run, name="rising", metrics=rows(3, 1, 2))
    unit = unit_of([run])
    assert describe_losses([falling], unit) == (
        "Validation loss in bits per character: falling 1.443 after 30 seconds."
    )
    assert describe_losses([falling, rising], unit).endswith(
        "It rose again: rising after step 200."
    )


def test_a_number_in_a_sentence_of_the_report_agrees_with_its_noun(run):
    soon = replace(run, name="soon", metrics=[{**rows(1)[0], "seconds": 1.2}])
    assert describe_losses([soon], unit_of([run])).endswith(" after 1 second.")
    (first, *_) = run.passage.tokens
    passage = replace(run.passage, tokens=[first], settings={"is_cut": True})
    assert describe_surprisal({"run": passage}).startswith("Shown: the first token of the text.")


def test_the_sentence_about_clipping_says_whether_steps_were_clipped(run):
    assert describe_clipping([replace(run, metrics=rows(1))]).startswith("Fewer than 0.1 %")
    assert describe_clipping([replace(run, metrics=rows(1, clipped=None))]).startswith("Fewer")
    clipped = replace(run, name="run", metrics=rows(1, clipped=0.25))
    assert describe_clipping([clipped]) == "Steps that were clipped: run 25 %."


def test_the_sentence_about_a_run_says_whether_it_was_evaluated(run):
    waiting = replace(run, name="waiting", metrics=[])
    assert describe_runs([waiting]).endswith("waiting was not evaluated yet.")
    scored = replace(run, name="scored", metrics=rows(2, 1, 3))
    assert describe_runs([scored, waiting]) == (
        "Lowest loss on the validation split, in bits per character: scored 1.443 at step 200. "
        "waiting was not evaluated yet."
    )


def context(*losses: float) -> Context:
    gains = [None, *(a - b for a, b in itertools.pairwise(losses))]
    table = [
        LossAtContext(10**at, loss, gain, None)
        for at, (loss, gain) in enumerate(zip(losses, gains, strict=True))
    ]
    return Context(table, {})


def test_the_sentence_about_context_says_up_to_where_the_loss_falls():
    contexts = {"a": context(2, 1.5, 1.499), "b": context(2, 1.5, 1.2), "c": context(2, 2, 2)}
    assert describe_context(contexts) == (
        "Longest context that lowers the loss by 0.01 nats against the length before it: a 10 and "
        "b 100 tokens. No context longer than 1 token does so in c."
    )


def test_the_sentence_about_the_gradient_says_whether_it_falls():
    curves = {
        name: Curve("layer_0", "hidden", half_life, [])
        for name, half_life in (("a", 3.5), ("b", math.inf), ("c", 0.0))
    }
    assert describe_half_lives(curves) == (
        "Tokens over which it halves: a 3.5. It does not fall with distance in b. It is 0 beyond "
        "distance 0 in c."
    )


def test_the_sentence_about_memory_says_how_far_predictions_depend():
    table = [
        MeanDependence(distance, value, 5) for distance, value in ((1, 1), (2, 0.3), (3, 0.05))
    ]
    sentence = describe_memory({"a": Memory([], table, {}), "b": Memory([], table[2:], {})})
    assert "a tenth of the row's maximum: a 2. No distance has such a mean in b." in sentence


def test_the_sentence_about_units_compares_scores_with_their_controls():
    unit = BestUnit("digit", "auc", Unit("layer_0", "hidden", 3), True, 0.9, 0.6, 0.1)
    follows, weak = Cells([unit], {}, {}), Cells([replace(unit, control=0.85)], {}, {})
    sentence = describe_units({"a": follows, "b": weak})
    assert "above its control: a 1 of 1 and b 0 of 1." in sentence
    assert "digit in a: AUC 0.90, control 0.60." in sentence
    assert "largest difference" not in describe_units({"b": weak})


def test_sentences_about_learning_state_their_numbers(run):
    changing = [
        {**row, "learning_rate": rate} for row, rate in zip(rows(2, 1), (0.1, 2e-6), strict=True)
    ]
    constant = [{**row, "learning_rate": 0.5} for row in rows(2, 1)]
    runs = [replace(run, name="a", metrics=changing), replace(run, name="b", metrics=constant)]
    assert describe_rate(runs) == (
        "The same at every evaluation: b 0.5. Largest at an evaluation, and at the last one: "
        "a 0.1 and 2.00·10⁻⁶."
    )
    norms = [{"gradient_norms": {"layer_0": 1.0, "projection": 3.0}}]
    sentence = describe_groups(replace(run, metrics=norms))
    assert sentence.endswith("projection has the largest norm, 3.")
    one = replace(run, samples=[{"step": 1, "text": "a"}])
    assert describe_samples(one) == "One sample was kept so far."
    assert "4 evaluations: the first one" in describe_samples(replace(run, samples=one.samples * 4))


def test_sentences_about_surprisal_state_their_numbers(run):
    token = run.passage.tokens[0]
    costs = (("a", 1.0), ("b", 5.0))
    tokens = [replace(token, label=label, surprisal_bits=bits) for label, bits in costs]
    whole = replace(run.passage, tokens=tokens, settings={"is_cut": False})
    sentence = describe_surprisal({"x": whole})
    assert "bits per token: x 3.00. The most surprising token for x is b with 5.0 bits." in sentence
    assert "first 2 tokens" not in sentence
    assert "first 2 tokens" in describe_surprisal({"x": replace(whole, settings={"is_cut": True})})
    assert describe_positions({"x": {1: 4.0, 9: 0.5}, "y": {1: 2.0}}) == (
        "x needs 4.00 bits for character 1 of a word and 0.50 for character 9; y needs 2.00 bits "
        "for character 1 of a word."
    )
    table = [
        {"class": "letters", "surprise_bits": 1.0, "share_of_surprise": 0.75},
        {"class": "digits", "surprise_bits": 3.0, "share_of_surprise": 0.25},
    ]
    assert describe_classes("x", replace(run.surprisal, by_class=table)) == (
        "In x, the class with the most bits per token is digits; 75 % of all bits are those of "
        "letters."
    )


def test_the_sentence_about_a_network_states_layers_units_and_parameters(run, text_file):
    for overrides, network in [
        (("model.cell=gru",), "1 layer of kind GRU with 16 units"),
        (("model.cell=nested_lstm", "model.num_layers=2"), "2 layers of kind nested LSTM with 16"),
        (("model.hidden_size=[8,4]",), "2 layers of kind LSTM with 8 and 4 units"),
        (("model.hidden_size=1",), "1 layer of kind LSTM with 1 unit,"),
        (("model.direction=both",), "1 layer of kind LSTM with 16 units in each direction,"),
    ]:
        trained = replace(run.trained, config=small_config(text_file, *overrides))
        sentence = describe_network(
            replace(run, name="a", trained=trained, tensors=[("x", (1200,), 1200)])
        )
        assert sentence.startswith(f"a has {network}"), overrides
        assert sentence.endswith(", and 1,200 parameters."), overrides


def test_the_sentence_about_parameters_names_the_largest_part(run):
    tensors = [("embedding.weight", (3, 10), 30), ("projection.weight", (7, 10), 70)]
    for order, largest in ((tensors, "70 % of them in projection"), (tensors[:1], "100 %")):
        sentence = describe_parameters(replace(run, name="a", tensors=order))
        assert largest in sentence, sentence
    assert sentence == "a has 30 parameters, 100 % of them in embedding."


def test_the_sentence_about_a_comparison_needs_one(run):
    comparison = Comparison([], [], {"characters": 5000})
    assert "the same 5,000 characters" in describe_comparison(Measurements([run], comparison))
    for missing in (None, Reason("no text")):
        assert describe_comparison(Measurements([run], missing)) == "", missing


def test_the_sentence_about_letters_is_about_the_first_guess_and_one_number():
    letters = LetterAccuracy(
        0.7, [KnownLetters(1, 9, [0.25, 0.5, 0.75]), KnownLetters(2, 9, [0.5, 1, 1])], {}
    )
    first = "With 1 letter known, the first guess is right in: a 25 %."
    assert describe_letters({"a": letters}, 1) == first
    short = replace(letters, by_known=letters.by_known[:1])
    assert describe_letters({"a": letters, "b": short}, 2) == (
        "With 2 letters known, the first guess is right in: a 50 %."
    )


def test_the_sentence_about_gates_states_open_before_closed():
    gates = [
        GateSaturation("layer_0", "forget", open=[0.5, 1.0], closed=[0.0, 0.2]),
        GateSaturation("layer_1", "input", open=[0.0], closed=[0.0]),
    ]
    assert describe_gates(Gates(gates, {})).endswith(
        "it is closed: layer 1, forget gate 75 % and 10 %; layer 2, input gate 0 % and 0 %."
    )


def test_the_sentence_about_embeddings_adds_both_components():
    assert describe_embeddings(Embeddings([], [0.3, 0.15], 64, {})) == (
        "The first two principal components hold 45 % of the variance of 64 dimensions."
    )


def test_the_sentence_about_agreement_states_the_accuracy_of_each_run():
    results = {name: Agreement(share, 9, 0, 0, [], [], [], {}) for name, share in _SHARES.items()}
    assert describe_agreement(results) == (
        "Verbs that agree with their subject: a 100 % and b 50 %."
    )


def test_the_warning_about_certain_runs_names_those_with_a_loss_near_zero():
    certain, open_ = Gradients([], {}, 1e-9), Gradients([], {}, 2.0)
    assert describe_certainty({"a": open_}) == ""
    assert "near 0 in b: there" in describe_certainty({"a": open_, "b": certain})


def test_the_sentences_about_omitted_labels_join_runs_with_the_same_reason():
    few, none = "1 of 9 positions have it", "0 of 9 positions have it"
    cells = {
        "a": Cells([], {"digit": few}, {}),
        "b": Cells([], {"digit": few, "indentation": none}, {}),
        "c": Cells([], {"digit": none}, {}),
        "d": Cells([], {}, {}),
    }
    assert describe_omitted_labels(cells) == [
        f"digit was not measured for a and b: {few}.",
        f"indentation was not measured for b: {none}.",
        f"digit was not measured for c: {none}.",
    ]


def test_a_backward_run_shows_the_text_in_its_order_and_what_comes_after(run, text_file, tmp_path):
    train_all(small_config(text_file, "model.direction=backward"), tmp_path / "backward")
    models = [run.trained, load(tmp_path / "backward").trained]
    options = replace(OPTIONS, sections=("surprisal", "memory"), text="The cat sat on a mat. " * 2)
    measurements = measure(models, options)
    html = make_report(measurements, options.sections).html
    forward, backward = data_of(html)["memory"]["runs"]
    assert backward["text"] == forward["text"]
    at = data_of(html)["memory"]["at"]
    assert len(forward["rows"][at]) == at
    after = [value >= 0 for value in backward["rows"][at]]
    assert after == [False] * (at + 1) + [True] * (len(forward["text"]) - at - 1)
    assert max(backward["rows"][at][at + 1 :]) == 1000
    rows = re.findall(r'data-mem="\d">(.*?)</div>', html, re.S)
    assert [row.split('class="cur"')[0].count("<i") - 1 for row in rows] == [at, at]
    assert html.count("backward reads from the end: a prediction depends on the tokens") == 2
    assert describe_direction(measurements.runs[:1]) == ""


def test_a_message_about_a_section_names_the_option_as_the_caller_wrote_it(trained, capsys):
    with pytest.raises(OptionError, match=r"^sections: has no section 'curve'; did you mean"):
        ReportOptions(sections=("curve",))
    assert charlm(["view", str(trained), "--only", "curve"]) == 2
    assert "--only" in capsys.readouterr().err


def test_a_report_on_records_has_no_missing_number(trained_records):
    measurements = measure([load(trained_records).trained], replace(OPTIONS, probe_tokens=401))
    html = make_report(measurements).html
    assert "NaN" not in html.split('id="data">')[1].split("</script>")[0]
    memory = measurements.runs[0].memory
    starts = [at + 1 for at, row in enumerate(memory.predictions[:-1]) if row.text == "\n"]
    assert starts
    assert all(max(memory.predictions[at].squared_norms) == 0 for at in starts)
