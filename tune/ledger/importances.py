"""Optuna's importance of each searched setting."""

import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from tune.ledger.growth import plain_name, united
from tune.ledger.records import State, record_of
from tune.ledger.storage import study_to_read

LEAST_FOR_IMPORTANCES = 10
"""Least number of complete trials for Optuna's importances, which compare the best tenth of the
trials with all."""


def importances(storage: str, study: str) -> Mapping[str, float]:
    """Optuna's importance of each searched setting over complete trials, highest first.

    They add up to 1. They are PED-ANOVA's (Watanabe, Bansal and Hutter 2023), Optuna's default: how
    much the distribution of a setting's values in the best tenth of the trials differs from that in
    all trials. The computation draws nothing at random. The result is empty where there is no such
    study, too few complete trials, equal scores, or nothing searched. Raises the errors of
    `read_ledger`.
    """
    with study_to_read(storage, study) as found:
        if found is None:
            return {}
        known, stored = found.attributes(), found.trials()
    begun = [trial for trial in stored if trial.state is not TrialState.WAITING]
    # Optuna's own state of a trial that was continued stays that of a stopped one.
    complete = [
        (trial, record.ap50)
        for trial, record in ((trial, record_of(trial, known)) for trial in begun)
        if record.state is State.COMPLETE
    ]
    if len(complete) < LEAST_FOR_IMPORTANCES or len({value for _, value in complete}) == 1:
        return {}
    distributions: dict[str, list[BaseDistribution]] = {}
    for trial, _ in complete:
        for name, one in trial.distributions.items():
            distributions.setdefault(plain_name(name), []).append(one)
    domains = {name: united(drawn) for name, drawn in distributions.items()}
    view = optuna.create_study(direction="maximize")
    for trial, value in complete:
        params = {plain_name(name): value for name, value in trial.params.items()}
        view.add_trial(
            create_trial(
                value=value,
                params=params,
                distributions={name: domains[name] for name in params},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns where a conditional setting has few trials
        shares = optuna.importance.get_param_importances(view)
    return dict(sorted(shares.items(), key=lambda share: (-share[1], share[0])))
