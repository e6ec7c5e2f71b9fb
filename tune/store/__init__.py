"""The files of a study and its trials, and where they are.

carried.py      a trial's files that are carried to and from the driver's machine
filesystems.py  file systems of other machines, on which SQLite's locks do not hold
folder.py       the paths of a study's files, and its locks
keeper.py       writes in the study's folder what workers elsewhere send
names.py        the names that trials' files may have, and their sizes
probe.py        whether two machines see the same folder
trial_files.py  the files of one attempt in its worker: in place, or as a copy
url.py          files at a URL of an object store, and the driver's copies of them
"""
