"""Ray: processes, processors and GPUs; the only package that speaks to it.

bridge.py    Ray's search algorithm and scheduler, as adapters over the ledger
cgroups.py   the processors and memory that a container or a job may use
executor.py  starts Ray and runs attempts in its workers
loopback.py  a Ray that cannot be reached from outside
mps.py       NVIDIA's service by which trials on one GPU compute at the same time
packing.py   how many trials share a GPU, measured
scratch.py   temporary folders: short paths, and none left behind
"""
