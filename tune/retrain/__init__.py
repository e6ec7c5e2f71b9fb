"""The winner again: which trial, with what and on what; trained, predicted, written to `best/`.

plan.py  which trial is retrained, with what, on what
run.py   the winner again: training, submission, pictures
"""
