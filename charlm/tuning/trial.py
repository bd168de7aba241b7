"""The training of one trial of a search."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError

from charlm.config.load import check_config
from charlm.errors import ConfigError, CorpusError, DivergenceError
from charlm.runs import prepare, session
from charlm.runs.experiment import Evaluated, Experiment, Finished
from charlm.tuning.results import Outcome
from charlm.tuning.space import with_values
from charlm.tuning.study import WHOLE_BUDGET


def train(
    trial: optuna.Trial,
    values: Mapping[str, Any],
    config: Mapping[str, Any],
    folder: Path,
    is_stopped: Callable[[], bool],
) -> tuple[Outcome, str]:
    """Train a trial; return its outcome, and the reason for it.

    Args:
        trial: The trial, to which each validation loss is reported.
        values: Values of the trial by key.
        config: Configuration that all trials have in common.
        folder: Folder of the search.
        is_stopped: Called after every step; if it returns true, the trial is unfinished.
    """
    try:
        checked = check_config(with_values(config, values), f"trial {trial.number}")
        experiment = prepare.begin(checked, folder / "trials" / str(trial.number))
        return train_trial(trial, experiment, is_stopped), ""
    except DivergenceError as error:
        return "diverged", str(error)
    except (ConfigError, CorpusError) as error:  # The text was read before: it is the values.
        return "impossible", str(error)
    except torch.OutOfMemoryError:
        return "impossible", "needs more memory than the device has"
    except UpdateFinishedTrialError:  # The other workers have taken this one for lost.
        return "failed", ""


def train_trial(
    trial: optuna.Trial, experiment: Experiment, is_stopped: Callable[[], bool]
) -> Outcome:
    """Train, and report each validation loss together with the progress in the budget."""
    section, state, num_reported = experiment.config.training, experiment.state, 0
    with closing(session.run(experiment, stop=is_stopped)) as events:
        for event in events:
            if isinstance(event, Evaluated) and event.score is not None:
                progress = min(state.fraction_done(section), 1.0)
                num_evaluations = int(progress * section.evaluations + 1e-9)
                # After a divergence an evaluation is repeated; Optuna accepts one loss per step.
                if num_evaluations > num_reported:
                    step = WHOLE_BUDGET * num_evaluations // section.evaluations
                    trial.report(event.score.loss_nats, step)
                    num_reported = num_evaluations
                if num_evaluations < section.evaluations and trial.should_prune():
                    return "pruned"
            is_stopped_event = isinstance(event, Finished) and event.reason == "stopped"
            if is_stopped_event and not state.has_ended(section):
                return "unfinished"
    return "finished"
