"""One trial, from its batches to its checkpoints.

average.py      the moving average of the weights
checkpoint.py   tensors and a state in one file, written whole or not at all
loop.py         the batches of an epoch and the training loop
optim.py        from losses to weights: gradients, the learning rate of each step, AdamW
pictured.py     the picture that a trial keeps of its best epoch
probe.py        a trial that only trains, to measure the memory and time that it takes of a device
trial.py        `Trial`, which joins these: run_epoch, save, load
visits.py       how often an epoch shows each training image: images of rare classes more than once
"""
