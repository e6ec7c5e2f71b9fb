"""Laws of the files in deploy/: each passes its own tool's check, and fits this project.

Nothing here runs them: that would take a Docker daemon, SLURM and Kubernetes.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune.durations import seconds
from tune.search import build_parser

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
ENVIRONMENT = {"POSTGRES_PASSWORD": "secret", "DATA": "/images"}


def tool(name: str) -> str:
    """The path of a tool that a Python package brings, or the system."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def check(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def rayjob() -> Any:
    documents = yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text())
    return next(one for one in documents if one["kind"] == "RayJob")


def test_bash_and_shellcheck_accept_the_slurm_script() -> None:
    for command in (["bash", "-n"], [tool("shellcheck")]):
        done = check(*command, DEPLOY / "slurm.sh")
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_accepts_the_dockerfile() -> None:
    done = check(tool("hadolint"), DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_docker_compose_accepts_the_compose_file_and_nothing_misspelt(tmp_path: Path) -> None:
    compose = tool("docker-compose")
    done = check(compose, "--file", COMPOSE, "config", "--quiet")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace_perio"))
    assert check(compose, "--file", wrong, "config", "--quiet").returncode != 0


def test_every_port_of_the_compose_file_is_open_to_this_machine_only() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def searches() -> dict[str, list[str]]:
    """The arguments of `tune.search` in each file, by the file's name."""
    service = yaml.safe_load(COMPOSE.read_text())["services"]["search"]
    filled = [re.sub(r"\$\{\w+(:-([^}]*))?\}", r"\2", one) for one in service["command"]]
    script = (DEPLOY / "slurm.sh").read_text()
    (command,) = re.findall(r'^"\$PYTHON" -m (tune\.search .*) "\$@" &$', script, re.MULTILINE)
    (grace,) = re.findall(r"^GRACE=\$\{GRACE:-(\w+)\}", script, re.MULTILINE)
    entry = shlex.split(rayjob()["spec"]["entrypoint"])
    return {
        "compose.yaml": filled[1:],
        "slurm.sh": shlex.split(command.replace("$GRACE", grace))[1:],
        "rayjob.yaml": entry[entry.index("tune.search") + 1 :],
    }


@pytest.mark.parametrize("file", ["compose.yaml", "slurm.sh", "rayjob.yaml"])
def test_the_search_of_each_file_has_options_and_a_space_file_that_are_there(file: str) -> None:
    parsed = build_parser().parse_args(searches()[file])
    assert parsed.space is None or (ROOT / parsed.space).exists()


def test_every_scheduler_waits_longer_than_the_grace_time_of_its_search() -> None:
    grace = {
        name: seconds(build_parser().parse_args(found).grace, "--grace")
        for name, found in searches().items()
    }
    service = yaml.safe_load(COMPOSE.read_text())["services"]["search"]
    assert seconds(service["stop_grace_period"], "stop_grace_period") > grace["compose.yaml"]
    cluster = rayjob()["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        waits = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert waits > grace["rayjob.yaml"]
    script = (DEPLOY / "slurm.sh").read_text()
    (before_the_limit,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", script, re.MULTILINE)
    kill_wait = 30  # the default of slurm.conf
    assert min(int(before_the_limit), kill_wait) > grace["slurm.sh"]


def test_the_rayjob_names_the_ray_of_the_lock_file_and_the_dockerfile_a_python_that_it_allows() -> (
    None
):
    lock = (ROOT / "requirements.lock").read_text()
    (ray,) = re.findall(r"^ray(?:\[\w+\])?==([\d.]+)", lock, re.MULTILINE)
    assert rayjob()["spec"]["rayClusterSpec"]["rayVersion"] == ray
    (python,) = re.findall(
        r"^FROM python:3\.(\d+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE
    )
    (least,) = re.findall(
        r'^requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert int(python) >= int(least)


def test_what_the_dockerfile_copies_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)


def strict(schema: Any) -> Any:
    """A schema of Kubernetes that refuses what is not in it; Kubernetes itself drops that."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def test_the_schema_of_kuberay_accepts_the_rayjob_and_nothing_misspelt() -> None:
    """The schema is KubeRay's file `ray.io_rayjobs.yaml`, too large to keep here."""
    import jsonschema

    path = os.environ.get("CELL_TUNE_RAYJOB_CRD")
    if path is None:
        pytest.skip("CELL_TUNE_RAYJOB_CRD does not name KubeRay's ray.io_rayjobs.yaml")
    versions = yaml.safe_load(Path(path).read_text())["spec"]["versions"]
    (version,) = [one for one in versions if one["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft7Validator(schema)
    job = rayjob()
    assert [error.message for error in validator.iter_errors(job)] == []
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containerz"] = []
    assert list(validator.iter_errors(job))
