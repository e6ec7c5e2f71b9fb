"""YAML that costs no more than its size promises."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from core import bounded_yaml

ROOT = Path(__file__).parents[2]
SECONDS = 60
GIGABYTE = 2**30

HOSTILE = {
    "merges that double": (
        "a0: &a0 {x: 1, y: 2}\n"
        + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
    ),
    "lists that multiply": (
        "a0: &a0 [lol]\n"
        + "".join(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]\n" for n in range(1, 12))
    ),
    "one large mapping merged often": (
        f"b: &b {{{', '.join(f'k{n}: 1' for n in range(20_000))}}}\n"
        + "".join(f"c{n}: {{<<: *b}}\n" for n in range(40_000))
    ),
    "keys that multiply": (
        "a0: &a0 [x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]\n" for n in range(1, 9))
        + "? *a8\n: 1\n"
    ),
    "a list that holds itself": "a: &a [*a]",
    "a mapping that merges itself": "a: &a {<<: *a}",
    "more values than anybody writes": f"[{'1,' * 499_000}1]",
    "a number in base 60 of 400,000 digits": f"a: {'1:' * 400_000}1",
    "a text without end": f"a: {'x' * 900_000}",
}
"""Each under a megabyte."""

READ = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({GIGABYTE}, {GIGABYTE}))
import yaml
from core import bounded_yaml
try:
    bounded_yaml.load_yaml(sys.stdin.read())
except yaml.YAMLError as error:
    print("refused:", error.problem)
"""


@pytest.mark.parametrize("what", HOSTILE)
def test_what_multiplies_is_refused_within_a_gigabyte_and_a_minute(what: str) -> None:
    assert len(HOSTILE[what]) < 1_000_000
    done = subprocess.run(
        [sys.executable, "-c", READ], cwd=ROOT, input=HOSTILE[what], capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("refused: ")


def test_anchors_and_merges_that_stay_small_mean_what_they_mean() -> None:
    text = (
        "base: &base {epochs: 5, batch: 2}\nlong: {<<: *base, epochs: 50}\nlist: [*base, *base]\n"
    )
    assert bounded_yaml.load_yaml(text) == yaml.safe_load(text)


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="the key 'a' is there twice"):
        bounded_yaml.load_yaml("a: 1\na: 2\n")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_all_else_is_read_as_the_plain_loader_reads_it(value: object) -> None:
    text = yaml.safe_dump([value, value], allow_unicode=True)
    assert bounded_yaml.load_yaml(text) == yaml.safe_load(text)
