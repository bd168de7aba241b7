"""The Python interface: `train` and `load` return a `Run`.

The commands that write or score with a run, such as `sample`, are its methods. Models of labels
are a `LabelRun`, from `train_labels` and `load_labels`; an encoder and decoder are a `Translator`,
from `train_translator` and `load_translator`. `resume` returns what the run is.
"""

from charlm.api.loading import list_runs as list_runs
from charlm.api.loading import load as load
from charlm.api.loading import load_any as load_any
from charlm.api.loading import load_labels as load_labels
from charlm.api.loading import load_translator as load_translator
from charlm.api.reports import report as report
from charlm.api.reports import write_report as write_report
from charlm.api.runs import AnyRun as AnyRun
from charlm.api.runs import LabelRun as LabelRun
from charlm.api.runs import Run as Run
from charlm.api.runs import Translator as Translator
from charlm.api.runs import sample_to_file as sample_to_file
from charlm.api.runs import stream_to_file as stream_to_file
from charlm.api.training import choose as choose
from charlm.api.training import resume as resume
from charlm.api.training import train as train
from charlm.api.training import train_labels as train_labels
from charlm.api.training import train_seeds as train_seeds
from charlm.api.training import train_translator as train_translator
