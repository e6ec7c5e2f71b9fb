"""Samplers: they choose the settings of the next trial.

gaussian.py  Optuna's Gaussian process over conditional spaces, and Optuna's TPE
"""
