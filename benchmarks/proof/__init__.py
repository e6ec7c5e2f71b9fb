"""The proof that the whole does its job: the reference report's question, answered on real tissue.

__main__.py    the command line: what it runs, how it ends in time, and how it is continued
clock.py       the time that is left, and child processes that end when it is over
plan.py        the requests of the two studies: rows, weights, and epochs and trials that fit
short.py       the short form: a few small windows of the images, and small settings
stages.py      the stages in their order, each done or not
state.py       proof.json, which says what was chosen and run, and the archive that is carried
throughput.py  the rate at which a study trained, and what held it back
published.py   the reference report's own numbers
example.py     the pages, tables and pictures of docs/example, and README's part about them
"""
