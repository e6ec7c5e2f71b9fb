"""One trial, from its batches to its checkpoints.

checkpoint.py   tensors and a state in one file, written whole or not at all
loop.py         the batches of an epoch and the training loop
optim.py        AdamW and the learning rate of each step
probe.py        the memory and the time that a trial takes of a device, measured in a few steps
trial.py        `Trial`, which joins these: run_epoch, save, load
"""
