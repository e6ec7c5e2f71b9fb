"""The request of a search: its space, its options, and notes on them for the user.

`tune.request.file` reads a request from a space file and checks it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from core.config import SETTINGS, DataConfig, Value
from core.dependence import effective_settings, unmet_need
from core.extensions import NameIn
from core.text import many
from core.values import as_setting, as_settings
from tune.request import confounds
from tune.request.confounds import Attribution
from tune.request.values import condition
from tune.samplers.sampler import SAMPLERS, Sampler
from tune.space.domains import Choices
from tune.space.space import BY_REPEAT, Parameter, SearchSpace
from tune.stopping.rule import STOPPING_RULES, StoppingRule

DEFAULT_TRIALS = 30
CONTINUED = 2
"""At most this number times `confirm.top` of the trials that were stopped early are continued
before the confirmation."""
MAX_TRIALS = 10_000
"""Largest number of trials that a study may plan."""


class _Options(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class SearchOptions(_Options):
    """The sampler that chooses configurations, and the number of trials."""

    sampler: Annotated[str, NameIn(SAMPLERS)] = "gp"
    """gp (a Gaussian process; tpe from trial 100 on) and tpe learn from earlier trials; random does
    not; grid tries every point once."""
    trials: int | None = Field(None, ge=1, le=MAX_TRIALS)
    """Trials in all, 30 if not given. A grid has one trial for each point, variants one for each
    row and repeat."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the sampler; the trials' own seed is the setting `seed`."""


class StopEarly(_Options):
    """The rule that stops trials before their last epoch."""

    rule: Annotated[str, NameIn(STOPPING_RULES)] = "successive_halving"
    """successive_halving: at each rung only the best 1 / reduction of the trials go on, and from
    the first rung on only trials that may still come among the best three complete ones. Variants:
    none unless asked."""
    min_epochs: int | None = Field(None, ge=1)
    """The first rung, in epochs; a tenth of the epochs if not given."""
    reduction: int = Field(3, ge=2)
    """Ratio of each rung to the one before: at reduction 3 the rungs are at 1, 3, 9, ... times
    min_epochs."""

    def first_rung(self, epochs: int) -> int:
        """The first rung, in epochs, of a study whose longest trial has `epochs` epochs."""
        return self.min_epochs or math.ceil(epochs / 10)


class Confirm(_Options):
    """The choice of the winner among the best trials, on fresh seeds and splits."""

    top: int = Field(5, ge=0, le=100)
    """Number of the best trials that are run again; 0 for none. Variants: 0 unless asked."""
    seeds: int = Field(3, ge=1, le=100)
    """Fresh seeds for each of them."""
    folds: int = Field(0, ge=0, le=100)
    """0 for one hold-out for each seed; k >= 2 for a k-fold cross-validation for each seed."""

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("folds must be 0 (hold-out) or at least 2, and is 1")
        return folds


class Resources(_Options):
    """The GPU, the processors and the time that one trial gets."""

    gpus_per_trial: (
        Annotated[float, Field(ge=0, json_schema_extra={"maximum": 1})] | Literal["auto"]
    ) = "auto"
    """GPUs of one trial, from 0 (none) over a share of one (0.5) to a whole one (1); auto: where
    there is a GPU, as many trials share it as are measured to gain: 1, 2, 4 ... trials of the
    heaviest settings train at once, for about a minute in all."""
    cpus_per_trial: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU cores of one trial; auto divides them among the trials that run at once."""
    mps: bool | Literal["auto"] = "auto"
    """Whether trials that share a GPU of this machine compute at the same time, by NVIDIA's
    Multi-Process Service, instead of in turns; auto: yes, if the service can be used and trials
    train faster with it. With it, an error on the GPU in one trial ends all trials that share the
    GPU; they go on in other workers."""
    epoch_budget: int | None = Field(None, ge=1)
    """Largest number of epochs of the whole study, over all its runs and its confirmation; no limit
    if not given. At the limit the search ends; the same command with a larger one continues it."""
    gpu_hour_budget: float | None = Field(None, gt=0)
    """Largest number of GPU hours of the whole study, over all its runs and its confirmation; no
    limit if not given. An hour on half a GPU counts half."""
    stall_minutes: float = Field(120, ge=0)
    """Largest number of minutes for an epoch and, after training, for each image on which
    `after_training:` is tried. A worker that takes longer is ended, and its trial goes on in
    another worker; 0 for no limit."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _check_gpus(cls, gpus: float | Literal["auto"]) -> float | Literal["auto"]:
        if gpus != "auto" and gpus > 1:
            raise ValueError(
                "gpus_per_trial must be at most 1, since a trial trains on one GPU, and is"
                f" {as_setting(gpus)}; take 1, so that more GPUs run more trials at once, or a"
                " fraction, so that trials share a GPU"
            )
        return gpus


@dataclass(frozen=True)
class StudyRequest:
    """The request of a search: space file and command line, merged and checked.

    study            the study's name
    data             a folder, relative to where the command runs, or `synthetic`
    after_training   `predict.` settings with the values to try on the confirmation's models, or on
                     the winner where nothing is confirmed; no trial is trained for them, and all
                     trials use their defaults
    """

    study: str
    data: str
    space: SearchSpace
    search: SearchOptions = field(default_factory=SearchOptions)
    stop_early: StopEarly = field(default_factory=StopEarly)
    confirm: Confirm = field(default_factory=Confirm)
    resources: Resources = field(default_factory=Resources)
    after_training: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """The request in the form of a space file, with JSON's types only."""
        space = self.space
        searched: dict[str, Any] = {}
        if space.variants:
            searched["variants"] = {
                variant.name: dict(variant.settings) for variant in space.variants
            }
            searched |= {
                "baseline": space.baseline,
                "compare": dict(space.compare),
                "seeds": space.seeds,
            }
        else:
            searched["space"] = {
                parameter.name: _parameter_document(parameter) for parameter in space.parameters
            }
            searched["start"] = [dict(point) for point in space.start]
        if space.forbid:
            searched["forbid"] = [
                {name: list(values) for name, values in rule.items()} for rule in space.forbid
            ]
        return {
            "study": self.study,
            "data": self.data,
            "fixed": dict(space.fixed),
            **searched,
            "after_training": {name: list(values) for name, values in self.after_training.items()},
            **{name: getattr(self, name).model_dump(exclude_none=True) for name in OPTIONS},
        }

    @property
    def planned_trials(self) -> int:
        """Number of trials that the study has when it has finished."""
        if self.space.variants:
            return (
                len(self.space.variants)
                * self.space.seeds
                * max(int(self.space.value("data.folds", {})), 1)
            )
        if self.sampler.exhausts:
            assert self.space.size is not None
            return self.space.size
        return self.search.trials or DEFAULT_TRIALS

    @property
    def searched(self) -> list[str]:
        """The settings that differ between trials, in the order of the space file."""
        names = [parameter.name for parameter in self.space.parameters]
        names += [name for variant in self.space.variants for name in variant.settings]
        return list(dict.fromkeys(names))

    @property
    def sampler(self) -> Sampler:
        """The sampler that chooses the trials' settings; variants need none."""
        with SAMPLERS.calling(self.search.sampler):
            sampler = SAMPLERS[self.search.sampler]()
            assert isinstance(sampler.exhausts, bool), "exhausts must be true or false"
            return sampler

    @property
    def stopping_rule(self) -> StoppingRule:
        """The rule that decides which trials stop before their last epoch."""
        first_rung = self.stop_early.first_rung(self.max_epochs)
        with STOPPING_RULES.calling(self.stop_early.rule):
            return STOPPING_RULES[self.stop_early.rule](first_rung, self.stop_early.reduction)

    @property
    def candidates(self) -> int:
        """Number of the best trials that are run again, if none fails; 0 for none."""
        size = self.space.size
        return min(
            self.confirm.top, self.planned_trials, self.planned_trials if size is None else size
        )

    @property
    def continued(self) -> int:
        """Largest number of stopped trials that are continued before the confirmation, if no trial
        fails.
        """
        if not self.stopping_rule.rungs(self.max_epochs):
            return 0
        if self.space.variants:
            return self.candidates * self.planned_trials // len(self.space.variants)
        return min(CONTINUED * self.candidates, self.planned_trials)

    @property
    def reading(self) -> DataConfig:
        """The settings with which the data set is read, the same for all trials."""
        names = (
            "skip_bad", "allow_suspicious", "split_components", "class_names", "intensity",
            "group_pattern",
        )  # fmt: skip
        return DataConfig.model_validate(
            {name: self.space.value(f"data.{name}", {}) for name in names}
        )

    @property
    def reading_again(self) -> DataConfig:
        """The settings with which the data set of a study that has begun is read.

        They allow suspicious annotations: the fingerprint says that the data are the same, and the
        settings of such a study are fixed, so a later version that suspects more must not stop it.
        """
        return self.reading.model_copy(update={"allow_suspicious": True})

    @property
    def max_epochs(self) -> int:
        """Number of epochs of the longest possible trial."""
        space = self.space
        epochs = [space.value("optim.epochs", variant.settings) for variant in space.variants]
        for parameter in space.parameters:
            if parameter.name == "optim.epochs" and parameter.name in space.possible:
                epochs += parameter.domain.corners
        if not space.variants and not any(
            p.name == "optim.epochs" and not p.when for p in space.parameters
        ):
            epochs.append(space.value("optim.epochs", {}))
        return max(int(value) for value in epochs)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user before the search starts, a sentence each, without full stops."""
        return (
            *self._space_notes(),
            *self._norm_notes(),
            *self._stopping_notes(),
            *self._confirm_notes(),
            *self._after_training_notes(),
        )

    def _space_notes(self) -> Iterator[str]:
        space, planned = self.space, self.planned_trials
        for name, need in space.idle.items():
            searched = any(parameter.name == name for parameter in space.parameters)
            what = (
                "is searched and can have no effect"
                if searched
                else f"{space.fixed[name]} can have no effect"
            )
            yield f"{name} {what}: it needs {need}, which no trial has"
        if space.variants:
            yield from _variant_notes(space, planned)
            if self.search != SearchOptions():
                yield (
                    f"search is not used by variants: {many(planned, 'trial')} in all, "
                    f"{many(space.seeds, 'repeat')} of each variant"
                )
            return
        for parameter in space.parameters:
            if parameter.name not in space.possible:
                yield (
                    f"{parameter.name} is never searched: it needs that"
                    f" {condition(space.unmet(parameter))}"
                )
        if self.sampler.exhausts:
            if self.search.trials is not None:
                yield (
                    f"search.trials {self.search.trials} is not used: the {self.search.sampler} has"
                    f" {many(planned, 'point')}, one trial each"
                )
            if space.start:
                yield f"start is not used: a {self.search.sampler} tries every point"
        elif space.size is not None and planned > space.size:
            different = many(space.size, "different configuration")
            yield f"search.trials {planned} is more than the {different}: some are repeated"
        if not self.sampler.exhausts and len(space.start) > planned:
            points = many(len(space.start), "start point")
            yield f"search.trials {planned} is less than the {points}: the last are not tried"

    def _norm_notes(self) -> Iterator[str]:
        if "group" in self._tried("model.norm") and self._tried("model.weights") != {"none"}:
            yield (
                "model.norm group keeps scale and shift of a pretrained pyramid and heads, and"
                " drops the statistics of their batch norm: training starts further from the"
                " pretrained network than with frozen"
            )

    def _tried(self, name: str) -> set[Value]:
        """The values of a setting in the study's trials; of a range, its ends."""
        space = self.space
        shared = space.value(name, {})
        return {
            *(space.value(name, one.settings) for one in space.variants or ()),
            *(
                value
                for one in space.parameters
                if one.name == name
                for value in one.domain.corners
            ),
            *(() if space.variants else (shared,)),
        }

    def _stopping_notes(self) -> Iterator[str]:
        if self.stop_early.rule == "none":
            if self.space.variants:
                yield (
                    "variants are not stopped early, unless stop_early.rule: successive_halving"
                    " asks for it"
                )
            return
        rung = self.stop_early.first_rung(self.max_epochs)
        if rung >= self.max_epochs:
            yield (
                f"stop_early.min_epochs {rung} is not under optim.epochs {self.max_epochs}: no"
                " trial is stopped early"
            )
        elif self.space.variants:
            yield "variants that are stopped early have no score to be compared by"

    def _confirm_notes(self) -> Iterator[str]:
        if not self.candidates:
            return
        best, seeds, folds = self.candidates, self.confirm.seeds, self.confirm.folds
        trainings, epochs = best * seeds * max(folds, 1), self.max_epochs
        yield (
            f"confirm: the best {best if best > 1 else 'one'} of the search will be trained again"
            f" on {many(seeds, 'fresh seed')} and"
            f" {'splits' if seeds > 1 else 'split'}{f' into {folds} folds' if folds else ''}, never"
            f" stopped early, and the winner chosen there: {many(trainings, 'training')} of up to"
            f" {many(epochs, 'epoch')} beside the search's {self.planned_trials}"
        )
        if self.continued:
            rung = min(self.stopping_rule.rungs(epochs))
            among = best if self.space.variants else self.continued
            yield (
                f"confirm: before that, trials among the best {among} that were stopped early go on"
                f" to their last epoch, at most {many(self.continued, 'trial')} of up to"
                f" {many(epochs - rung, 'further epoch')}"
            )

    def _after_training_notes(self) -> Iterator[str]:
        if not self.after_training:
            return
        count = math.prod(len(values) for values in self.after_training.values())
        trials = as_settings({name: SETTINGS[name] for name in self.after_training})
        where = (
            "by each training of the confirmation, where the winner is chosen with one of them"
            if self.candidates
            else "on the winner after its retraining"
        )
        yield (
            f"after_training: {many(count, 'combination')} of predict settings will be tried"
            f" {where}, at no cost for training; the trials predict with {trials}"
        )


def _variant_notes(space: SearchSpace, planned: int) -> Iterator[str]:
    names: dict[frozenset[tuple[str, Value]], str] = {}
    for variant in space.variants:
        settings = {**space.fixed, **variant.settings}
        for name in variant.settings:
            need = unmet_need(name, settings)
            if need is not None and settings[name] != space.value(name, {}):
                yield (
                    f"variant '{variant.name}': {name} {settings[name]} has no effect, since it"
                    f" needs {need}"
                )
        key = frozenset(effective_settings(settings).items())
        if key in names:
            both = f"variants '{names[key]}' and '{variant.name}'"
            yield f"{both} are the same configuration in effect, and differ by chance alone"
        names.setdefault(key, variant.name)
    yield from (found.sentence for found in variant_attributions(space) if found.is_confounded)
    if space.seeds == 1:
        yield (
            "seeds is 1: what differs between variants cannot be told from what differs between"
            " seeds"
        )
    if folds := space.value("data.folds", {}):
        yield (
            f"data.folds {folds}: each variant runs {folds} times a seed, {many(planned, 'trial')}"
            " in all"
        )


def variant_attributions(
    space: SearchSpace, trained: Mapping[str, Mapping[str, Value]] | None = None
) -> list[Attribution]:
    """The attribution of each variant's difference to the variant that it is compared with.

    trained   all settings of a trial of each variant that was trained, by name; other variants have
              the settings of the space
    """
    table = {variant.name: space.resolve(variant.settings).settings() for variant in space.variants}
    by_repeat = {name: SETTINGS[name] for name in BY_REPEAT}
    table |= {name: {**settings, **by_repeat} for name, settings in (trained or {}).items()}
    counterparts = {name: other for name in table if (other := space.counterpart(name)) is not None}
    return confounds.attribute_comparisons(counterparts, table)


def _parameter_document(parameter: Parameter) -> dict[str, Any]:
    domain = parameter.domain
    document: dict[str, Any]
    if isinstance(domain, Choices):
        document = {"choices": list(domain.values)}
    else:
        document = {"low": domain.low, "high": domain.high}
        if domain.log:
            document["log"] = True
        elif domain.step is not None:
            document["step"] = domain.step
    if parameter.when:
        document["when"] = {name: list(values) for name, values in parameter.when.items()}
    return document


OPTIONS: Mapping[str, type[BaseModel]] = {
    "search": SearchOptions,
    "stop_early": StopEarly,
    "confirm": Confirm,
    "resources": Resources,
}
"""The model of each section of a space file that holds options."""
