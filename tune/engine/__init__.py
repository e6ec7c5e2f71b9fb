"""Ray: processes, processors and GPUs; the only package that speaks to it.

bridge.py         Ray's search algorithm and scheduler, as adapters over the ledger
carrying.py       trials' files on a cluster, in place or carried to the driver's machine
cgroups.py        the processors and memory that a container or a job may use
executor.py       runs the attempts that a desk hands out
farewell.py       the end of a worker's process that was told to end
interruption.py   how a search ends on Ctrl-C, on SIGTERM, or when Ray dies
loopback.py       a Ray that cannot be reached from outside
messages.py       what the driver and its workers tell each other
mps.py            NVIDIA's service by which trials on one GPU compute at the same time
packing.py        how many trials share a GPU, given what was measured
rehearsal.py      measures trials that train at once on one GPU
resources.py      the processors, GPUs and memory there are, and each trial's part of them
scratch.py        temporary folders: short paths, and none left behind
session.py        starts Ray, or joins a cluster, and ends what was started
worker.py         runs an attempt, one epoch after the other, in a process of Ray's
"""

import os

# Ray reads these when it is imported, and only the modules of this package import it. Results go
# to the ledger, so Ray's own loggers and progress tables are off, and so is its answer to Ctrl-C
# (see interruption.py). Ray may start any number of
# workers at once, since it is never handed more trials than may run: by default it starts a worker
# only when the one before is up, and six trials that share a GPU began 15 s apart.
for _name, _value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}.items():
    os.environ.setdefault(_name, _value)
