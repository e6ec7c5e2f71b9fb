"""Samplers: they choose the settings of the next trial.

sampler.py     the protocol of a sampler, and the table of samplers
at_random.py   settings drawn at random
elsewhere.py   trials of another study as a sampler is shown them
encoding.py    the points of a space as rows of numbers, which a Gaussian process can compare
gaussian.py    Optuna's Gaussian process, also in a conditional space
grid.py        every point of the space once
surrogate.py   a Gaussian process that knows the noise of each score
tpe.py         Optuna's tree-structured Parzen estimator (TPE)
view.py        the trials of a study as an Optuna study in memory, which Optuna's samplers are shown
"""
