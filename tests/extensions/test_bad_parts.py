"""Parts of other packages that fail, or answer with rubbish, are named in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

from tests import toys

BAD = """
class Bad:
    exhausts = False

    def propose(self, space, given, tried, seed):
        return self.answer


class Empty(Bad):
    answer = {}


class More(Bad):
    answer = {"optim.learning_rate": 1e-3, "optim.epochs": 3}


class Outside(Bad):
    answer = {"optim.learning_rate": 1.0}


class Text(Bad):
    answer = {"optim.learning_rate": "0.001"}


class Nothing(Bad):
    answer = None


class Raises(Bad):
    @property
    def answer(self):
        return 1 / 0


class Odd:
    pass


class Rule:
    def __init__(self, min_epochs, reduction):
        pass

    def rungs(self, epochs):
        return ()


class RaisingRule(Rule):
    def why_stopped(self, curve, others, complete, epochs):
        return 1 / 0


class WrongRule(Rule):
    def why_stopped(self, curve, others, complete, epochs):
        return True
"""
SAMPLERS = ("Empty", "More", "Outside", "Text", "Nothing", "Raises", "Odd")
RULES = ("RaisingRule", "WrongRule")
PROGRAM = f"""
from core.errors import ExtensionError
from tune.ledger.ledger import open_ledger
from tune.request.file import from_document
from tune.samplers.sampler import SAMPLERS

def asked(sampler="random", rule="none"):
    return from_document({{
        "study": "s", "data": "synthetic", "fixed": {{"optim.epochs": 9}},
        "space": {{"optim.learning_rate": {{"low": 1e-5, "high": 1e-2, "log": True}}}},
        "search": {{"sampler": sampler, "trials": 3}}, "stop_early": {{"rule": rule}},
    }}, "test")

for name in {SAMPLERS}:
    try:
        print(open_ledger("memory", asked(sampler=name)).next())
    except ExtensionError as error:
        print(error)
for name in {RULES}:
    ledger = open_ledger("memory", asked(rule=name))
    try:
        print(ledger.report(ledger.next().id, [{{"epoch": 1, "ap50": 0.5, "seconds": 1.0}}]))
    except ExtensionError as error:
        print(error, ledger.records[0].epochs)
"""


def test_a_sampler_or_a_rule_that_fails_is_named_and_nothing_of_its_answer_is_stored(
    tmp_path: Path,
) -> None:
    points = {
        "cell_tune.samplers": "\n".join(f"{name} = bad:{name}" for name in SAMPLERS),
        "cell_tune.stopping_rules": "\n".join(f"{name} = bad:{name}" for name in RULES),
    }
    site = toys.install(tmp_path / "site", BAD, points, name="bad")
    found = os.pathsep.join([str(site), *(one for one in sys.path if one)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": found},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(SAMPLERS) + len(RULES)
    for name, line in zip(SAMPLERS[:5], said, strict=False):
        assert line.startswith(f"the sampler {name!r} proposed "), line
        assert "which is no point of the space" in line
    assert "the sampler 'Raises' of bad:Raises failed (ZeroDivisionError: " in said[5]
    assert "the sampler 'Odd' of bad:Odd failed (AttributeError: " in said[6]
    assert "the stopping rule 'RaisingRule' of bad:RaisingRule failed" in said[7]
    assert "a reason is a text, and this one is True" in said[8]
    assert said[7].endswith(" ()")
    assert said[8].endswith(" ()")
