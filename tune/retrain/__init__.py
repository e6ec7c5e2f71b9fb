"""The retraining of a study's winner: it is trained again, its prediction tuned, `best/` written.

ensemble.py  the models that the confirmation trained of the winner, joined into one
outputs.py   the submission and the pictures
plan.py      the choice of the trial, and the check of its retraining
run.py       the training, and the writing of `best/`
"""
