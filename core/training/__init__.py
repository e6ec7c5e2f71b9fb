"""One trial: batches, the loop of an epoch, the optimizer, checkpoints, and `Trial` that joins
them.

checkpoint.py  one atomic file of tensors
loop.py        the batches of an epoch and the training loop
optim.py       AdamW and its learning rate, step by step
probe.py       the memory and the time that a trial takes of a GPU, measured by a few steps
trial.py       the trial: run_epoch, save, load
"""
