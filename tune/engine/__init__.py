"""Ray: processes, processors and GPUs; the only package that speaks to it.

bridge.py    Ray's search algorithm and scheduler, adapters over the ledger
cgroups.py   what a container or a job may use of the machine
executor.py  Ray: processes, processors, GPUs
loopback.py  a Ray that nobody reaches from outside
mps.py       NVIDIA's service by which they compute at the same time
packing.py   how many trials share a GPU, measured
scratch.py   temporary folders: short, and none left behind
"""
