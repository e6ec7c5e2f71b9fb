"""Early stopping: whether a trial goes on, judged by learning curves alone.

rule.py      the protocol of a stopping rule, and the table of rules
halving.py   asynchronous successive halving, and an end to trials without hope
hope.py      the score that a trial may still reach, estimated from complete trials
never.py     no early stopping
"""
