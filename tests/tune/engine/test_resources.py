"""Laws of how many trials share a machine or a cluster, and start at once. Ray is not started."""

from collections.abc import Sequence
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from core.errors import ResourceError
from tune.engine.resources import Machine, Node, TrialResources

RAY_UNITS = 10_000
"""Ray counts resources in ten-thousandths."""

node = st.builds(Node, st.integers(0, 24), st.integers(0, 4))
clusters = st.lists(node, min_size=1, max_size=4).map(lambda nodes: Machine(tuple(nodes)))
cpus_asked = st.integers(1, 26)
gpus_asked = st.sampled_from([0, 0.1, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.7, 1])


def machine(*nodes: tuple[int, int]) -> Machine:
    return Machine(tuple(Node(cpus, gpus) for cpus, gpus in nodes))


def placed_one_by_one(nodes: Sequence[Node], cpus: int, gpus: float) -> int:
    """Trials that find room as Ray gives it: processors, and a GPU or a part of one, all of one
    node.
    """
    need = int(gpus * RAY_UNITS)
    placed = 0
    for node in nodes:
        free_cpus, free_gpus = node.cpus, [RAY_UNITS] * node.gpus
        while free_cpus >= cpus:
            taken = [place for place, free in enumerate(free_gpus) if need and free >= need][:1]
            if need and not taken:
                break
            for place in taken:
                free_gpus[place] -= need
            free_cpus -= cpus
            placed += 1
    return placed


@given(clusters, cpus_asked, gpus_asked)
def test_exactly_the_trials_that_find_room_node_by_node_run_and_a_trial_without_room_is_refused(
    cluster: Machine, cpus: int, gpus: float
) -> None:
    room = placed_one_by_one(cluster.nodes, cpus, gpus)
    if room:
        assert cluster.share(cpus, gpus, None) == TrialResources(cpus, gpus, room)
    else:
        with pytest.raises(ResourceError, match=r"per_trial must (not pass the|be 0, since)"):
            cluster.share(cpus, gpus, None)


@given(
    clusters,
    st.one_of(st.just("auto"), cpus_asked),
    st.one_of(st.just("auto"), gpus_asked),
    st.integers(1, 99),
)
def test_nothing_is_ever_oversubscribed_nor_more_run_than_asked(
    cluster: Machine, cpus: int | str, gpus: float | str, parallel: int
) -> None:
    try:
        every = cluster.share(cpus, gpus, None)
    except ResourceError:
        with pytest.raises(ResourceError):
            cluster.share(cpus, gpus, parallel)
        return
    assert 1 <= every.parallel <= placed_one_by_one(cluster.nodes, every.cpus, every.gpus)
    assert every.parallel * every.cpus <= sum(node.cpus for node in cluster.nodes)
    assert every.parallel * every.gpus <= sum(node.gpus for node in cluster.nodes) + 1e-9
    assert cluster.share(cpus, gpus, parallel).parallel == min(parallel, every.parallel)


@given(st.lists(node, min_size=1, max_size=4), st.randoms(), cpus_asked, gpus_asked)
def test_the_order_of_the_nodes_does_not_matter(
    nodes: list[Node], random: Random, cpus: int, gpus: float
) -> None:
    def outcome(some: list[Node], cpus: int | str) -> TrialResources | str:
        try:
            return Machine(tuple(some)).share(cpus, gpus, None)
        except ResourceError as error:
            return str(error)

    shuffled = random.sample(nodes, len(nodes))
    assert outcome(shuffled, cpus) == outcome(nodes, cpus)
    assert outcome(shuffled, "auto") == outcome(nodes, "auto")


@given(st.lists(st.builds(Node, st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=5))
def test_auto_fits_every_machine_and_leaves_no_gpu_idle_that_has_a_processor(
    nodes: list[Node],
) -> None:
    resources = Machine(tuple(nodes)).share("auto", "auto", None)
    with_gpus = [node for node in nodes if node.gpus]
    assert resources.gpus == (1 if with_gpus else 0)
    if with_gpus:
        assert 1 <= resources.cpus <= 8
        assert resources.parallel == sum(min(node.gpus, node.cpus) for node in with_gpus)


@pytest.mark.parametrize(
    ("nodes", "gpus_per_trial", "expected"),
    [
        ([(1, 0)], "auto", TrialResources(1, 0, 1)),
        ([(4, 0)], "auto", TrialResources(1, 0, 4)),
        ([(7, 0)], "auto", TrialResources(1, 0, 7)),
        ([(16, 0)], "auto", TrialResources(4, 0, 4)),
        ([(16, 0), (4, 0), (3, 0)], "auto", TrialResources(4, 0, 5)),
        ([(4, 0)] * 4, "auto", TrialResources(1, 0, 16)),
        ([(64, 1)], "auto", TrialResources(8, 1, 1)),
        ([(12, 4)], "auto", TrialResources(3, 1, 4)),
        ([(2, 4)], "auto", TrialResources(1, 1, 2)),
        ([(12, 2), (8, 2), (64, 0)], "auto", TrialResources(4, 1, 4)),
        ([(0, 2), (8, 2)], "auto", TrialResources(4, 1, 2)),
        ([(12, 2), (64, 0)], 0.5, TrialResources(3, 0.5, 4)),
        ([(12, 2), (64, 0)], 0, TrialResources(16, 0, 4)),
    ],
)
def test_auto_processors_are_the_least_equal_share_beside_gpus_and_make_four_trials_on_the_largest_node_without(
    nodes: list[tuple[int, int]], gpus_per_trial: float | str, expected: TrialResources
) -> None:
    assert machine(*nodes).share("auto", gpus_per_trial, None) == expected


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "sentence"),
    [
        (
            [(4, 0)] * 4,
            8,
            0,
            (
                "resources.cpus_per_trial must not pass the 4 processors of the largest node, and"
                " is 8; --cpus-per-trial auto fits"
            ),
        ),
        (
            [(4, 0)],
            8,
            0,
            (
                "resources.cpus_per_trial must not pass the 4 processors there are, and is 8;"
                " --cpus-per-trial auto fits"
            ),
        ),
        (
            [(4, 1), (64, 0)],
            8,
            1,
            (
                "resources.cpus_per_trial must not pass the 4 processors of the largest node with"
                " enough GPUs, and is 8; --cpus-per-trial auto fits"
            ),
        ),
        (
            [(8, 0), (8, 0)],
            1,
            1,
            (
                "resources.gpus_per_trial must be 0, since no node has a GPU, and is 1; "
                "--gpus-per-trial 0 runs on processors"
            ),
        ),
        (
            [(8, 0)],
            1,
            0.5,
            (
                "resources.gpus_per_trial must be 0, since there is no GPU, and is 0.5; "
                "--gpus-per-trial 0 runs on processors"
            ),
        ),
        (
            [(0, 1), (0, 0)],
            "auto",
            "auto",
            (
                "resources.cpus_per_trial must not pass the 0 processors of the largest node with"
                " enough GPUs, and is 1; give Ray's nodes processors"
            ),
        ),
    ],
)
def test_a_refusal_names_the_limit_the_value_and_a_way_out(
    nodes: list[tuple[int, int]], cpus: int | str, gpus: float | str, sentence: str
) -> None:
    with pytest.raises(ResourceError) as refusal:
        machine(*nodes).share(cpus, gpus, None)
    assert str(refusal.value) == sentence
