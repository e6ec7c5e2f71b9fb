"""What strangers cannot do: reach what a study starts, or have their code run by a file in a
study's folder.
"""

import ast
import hashlib
import io
import ipaddress
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ray._private import ray_constants

from core import predict
from core.config import TrialConfig
from core.data import synthetic
from core.data.dataset import Category
from core.network.build import build_detector
from core.prediction import trained_model
from core.prediction.trained_model import TrainedModel
from tune.engine.loopback import on_loopback
from tune.engine.session import _make_token
from tune.retrain import plan as retrain_plan
from tune.retrain_best import main as retrain_best
from tune.search import main as search
from tune.study.reading import read_study

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[1]
SPACE = """
study: tiny
data: cells
fixed:
  data.validation_fraction: 0.4
  model.backbone: resnet18
  model.weights: none
  model.trainable_layers: 0
  model.image_min_side: 64
  model.image_max_side: 64
  model.proposals_train: 16
  model.proposals_test: 16
  model.rpn_samples: 16
  model.box_samples: 16
  optim.epochs: 1
space:
  optim.learning_rate: {low: 1e-4, high: 1e-3, log: true}
search: {sampler: random, trials: 1}
stop_early: {rule: none}
confirm: {top: 0}
"""
COMMAND = ["tune.search", "--space", "tiny.yaml", "--gpus-per-trial", "0"]


@dataclass(frozen=True)
class Listener:
    """A process that accepts TCP connections, and where."""

    process: str
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int


def process_tree(root: int) -> set[int]:
    """A process, its children, theirs, and so on."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    tree = {root}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return tree


def listening_sockets() -> dict[str, tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Address and port of each TCP socket that listens on this machine, by its inode."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state != "0A":
                continue
            digits, _, port = local.rpartition(":")
            # Words of four bytes, each in the byte order of the machine.
            words = [bytes.fromhex(digits[start : start + 8]) for start in range(0, len(digits), 8)]
            packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
            address = ipaddress.ip_address(packed)
            found[rest[5]] = (getattr(address, "ipv4_mapped", None) or address, int(port, 16))
    return found


def listeners(root: int) -> Iterator[Listener]:
    """The sockets on which a process and its descendants listen now."""
    sockets = listening_sockets()
    for pid in process_tree(root):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        for link in links:
            inode = link.removeprefix("socket:[").removesuffix("]")
            if link.startswith("socket:[") and inode in sockets:
                yield Listener(name, *sockets[inode])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[Listener]]:
    """A folder in which a search of one real trial has ended, and all that listened on its
    behalf meanwhile.
    """
    folder = tmp_path_factory.mktemp("searched")
    synthetic.write_hw3(synthetic.make_cells(images=5, side=64), folder / "cells")
    (folder / "tiny.yaml").write_text(SPACE)
    with (folder / "output.txt").open("w") as output:
        # RAY_ADDRESS names a cluster that a local search must neither look for nor mind.
        driver = subprocess.Popen(
            [sys.executable, "-m", *COMMAND],
            cwd=folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "RAY_ADDRESS": "192.0.2.1:6379"},
        )
        seen: set[Listener] = set()
        while driver.poll() is None:
            seen |= set(listeners(driver.pid))
            time.sleep(0.1)
    assert driver.returncode == 0, (folder / "output.txt").read_text()
    return folder, seen


def test_all_that_a_search_starts_listens_on_loopback_alone(
    searched: tuple[Path, set[Listener]],
) -> None:
    seen = searched[1]
    names = " ".join(listener.process for listener in seen)
    assert all(name in names for name in ("gcs_server", "raylet", "ray::")), (
        f"of Ray only these were seen: {names}"
    )
    assert {listener for listener in seen if not listener.address.is_loopback} == set()


def test_nothing_but_the_search_and_its_ray_listens(searched: tuple[Path, set[Listener]]) -> None:
    others = {
        one.process
        for one in searched[1]
        if not one.process.startswith(("python", "gcs_server", "raylet", "ray::"))
    }
    assert others == set()


def test_a_socket_that_is_open_to_all_would_be_seen() -> None:
    program = (
        "import socket, sys; one = socket.create_server((sys.argv[1], 0)); print(flush=True);"
        " input()"
    )
    for asked in ("0.0.0.0", "127.0.0.1"):
        command = [sys.executable, "-c", program, asked]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            found = [listener.address for listener in listeners(process.pid)]
            process.communicate("\n")
        assert found == [ipaddress.ip_address(asked)]


def test_the_switch_to_loopback_is_put_back_also_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    seen = []

    def start() -> None:
        with on_loopback():
            seen.append(ray_constants.ENABLE_RAY_CLUSTER)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        start()
    assert seen == [False]
    assert ray_constants.ENABLE_RAY_CLUSTER is True


def test_a_ray_without_the_switch_is_started_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray_constants, "ENABLE_RAY_CLUSTER")
    with on_loopback():
        assert not hasattr(ray_constants, "ENABLE_RAY_CLUSTER")


RAY_ALONE = """
import sys
from tune.engine.session import ray_session
from tune.engine.resources import Machine, Node
import ray
with ray_session(Machine((Node(1, 0),))):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
CLIENT = """
import sys
from ray._raylet import GcsClient
print(b"session_name" in GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None))
"""


def test_ray_refuses_who_has_no_token_or_another_and_the_token_is_its_owners_alone(
    tmp_path: Path,
) -> None:
    token, other = tmp_path / "token", tmp_path / "other"
    token.write_text("0" * 64)
    token.chmod(0o644)  # as Ray would have left it
    other.write_text("1" * 64)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def asked(address: str, **variables: str) -> str:
        command = [sys.executable, "-c", CLIENT, address]
        done = subprocess.run(
            command, env=clean | variables, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    command = [sys.executable, "-c", RAY_ALONE]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean | {"RAY_AUTH_TOKEN_PATH": str(token)},
    ) as driver:
        assert driver.stdout is not None
        address = driver.stdout.readline().strip()
        answers = [
            asked(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)),
            asked(address, RAY_AUTH_MODE="disabled"),
            asked(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(other)),
        ]
        driver.communicate("")
    assert token.stat().st_mode & 0o777 == 0o600
    assert answers[0] == "True\n"
    assert all("InvalidAuthToken" in answer for answer in answers[1:])


@pytest.mark.parametrize("chosen", [True, False])
def test_a_new_token_is_made_for_its_owner_alone_and_kept(
    chosen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("chosen/token" if chosen else ".ray/auth_token")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    if chosen:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    before = os.umask(0)
    try:
        _make_token()
    finally:
        os.umask(before)
    made = path.read_text()
    _make_token()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == made
    assert len(made) == 64


class Touch:
    """Unpickled, it leaves a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Touch(marker))


def pickled_by_torch(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"conv1.weight": Touch(marker)}, buffer)
    return buffer.getvalue()


def pickled_in_arrays(marker: Path) -> bytes:
    names = (
        "image_D",
        "label_D",
        "score_D",
        "rank_D",
        "hit_D",
        "ignored_D",
        "truths_IC",
        "image_names",
    )
    buffer = io.BytesIO()
    np.savez(buffer, **dict.fromkeys(names, np.array([Touch(marker)], dtype=object)))
    return buffer.getvalue()


def called_by_yaml(marker: Path) -> bytes:
    return f"!!python/object/apply:os.system ['touch {marker}']".encode()


Content = Callable[[Path], bytes]
"""What somebody writes into a file, so that whoever loads it carelessly leaves the marker."""


def plant(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@dataclass(frozen=True)
class Attacked:
    """A study's folder that somebody else could write to; `marker` appears if his code ran."""

    folder: Path
    marker: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def study(self) -> Path:
        return self.folder / "results" / "tiny"

    def ends(self, main: Callable[[list[str]], int], *arguments: str) -> str:
        """What a command says on standard error: nothing, or one sentence; nobody else's code
        ran.
        """
        self.capsys.readouterr()
        status = main(list(arguments))
        errors = self.capsys.readouterr().err
        assert not self.marker.exists()
        assert (status == 0) == (errors == ""), errors
        assert errors.count("\n") == (status != 0)
        return errors


@pytest.fixture
def attacked(
    searched: tuple[Path, set[Listener]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Attacked:
    folder = tmp_path / "copy"
    shutil.copytree(searched[0], folder)
    monkeypatch.chdir(folder)
    found = Attacked(folder, tmp_path / "ran", capsys)
    for name in (
        "tuner.pkl",
        "searcher-state.pkl",
        "trainable.pkl",
        "params.pkl",
        "best/python_model.pkl",
    ):
        plant(found.study / name, pickled(found.marker))
    return found


@pytest.mark.parametrize(
    ("content", "load"),
    [
        (pickled, pickle.loads),
        (pickled_by_torch, lambda data: torch.load(io.BytesIO(data), weights_only=False)),
        (pickled_in_arrays, lambda data: np.load(io.BytesIO(data), allow_pickle=True)["image_D"]),
        (called_by_yaml, yaml.unsafe_load),
    ],
)
def test_what_is_planted_here_does_run_where_it_is_loaded_carelessly(
    content: Content, load: Callable[[bytes], Any], tmp_path: Path
) -> None:
    load(content(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


def test_a_search_that_goes_on_among_planted_files_trains_and_runs_none_of_them(
    attacked: Attacked,
) -> None:
    trial, marker = attacked.study / "trials" / "1", attacked.marker
    plant(trial / "last.safetensors", pickled(marker))
    plant(trial / "best-0001.safetensors", pickled_by_torch(marker))
    plant(trial / "matches" / "epoch-0001.npz", pickled_in_arrays(marker))
    plant(trial / "config.json", pickled(marker))
    attacked.ends(search, "--study", "tiny", "--gpus-per-trial", "0", "--trials", "2")
    assert len((attacked.study / "trials.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("content", [pickled, pickled_by_torch])
def test_a_planted_checkpoint_is_set_aside_by_a_retraining(
    attacked: Attacked, content: Content
) -> None:
    work = retrain_plan.plan_retraining(read_study("tiny"), trial=0).work
    plant(work / "last.safetensors", content(attacked.marker))
    assert attacked.ends(retrain_best, "--study", "tiny", "--trial", "0", "--device", "cpu") == ""
    assert (work / "last.safetensors.torn").read_bytes() == content(attacked.marker)
    assert (attacked.study / "best" / "model.safetensors").is_file()


def test_a_planted_match_table_is_refused_by_a_retraining_in_one_sentence(
    attacked: Attacked,
) -> None:
    plant(
        attacked.study / "trials" / "0" / "matches" / "epoch-0001.npz",
        pickled_in_arrays(attacked.marker),
    )
    told = attacked.ends(
        retrain_best, "--study", "tiny", "--trial", "0", "--on", "all", "--device", "cpu"
    )
    assert "a match table must be a whole npz file" in told


@pytest.mark.parametrize("content", [pickled, called_by_yaml])
@pytest.mark.parametrize("command", [retrain_best, search])
def test_a_planted_study_json_is_refused_in_one_sentence(
    attacked: Attacked, command: Any, content: Content
) -> None:
    plant(attacked.study / "study.json", content(attacked.marker))
    assert "study.json: the file is not JSON" in attacked.ends(command, "--study", "tiny")


def test_a_planted_space_file_is_refused_in_one_sentence(attacked: Attacked) -> None:
    plant(attacked.folder / "evil.yaml", b"study: evil\ndata: " + called_by_yaml(attacked.marker))
    assert "must be YAML that can be read" in attacked.ends(search, "--space", "evil.yaml")


@pytest.mark.parametrize("content", [pickled, pickled_by_torch])
@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
def test_planted_pretrained_weights_are_refused_in_one_sentence(
    attacked: Attacked, name: str, content: Content
) -> None:
    plant(attacked.folder / name, content(attacked.marker))
    arguments = ["--space", "tiny.yaml", "--study", "other", "--gpus-per-trial", "0"]
    assert name in attacked.ends(search, *arguments, "--set", f"model.weights={name}")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", called_by_yaml),
        ("config.yaml", lambda marker: b"format: 1\nsettings: " + called_by_yaml(marker)),
        ("config.yaml", lambda marker: b"? " + called_by_yaml(marker) + b"\n: 1\n"),
        ("config.yaml", pickled),
        ("model.safetensors", pickled),
        ("model.safetensors", pickled_by_torch),
    ],
)
def test_a_planted_model_is_refused_in_one_sentence(
    attacked: Attacked, file: str, content: Content
) -> None:
    best, images = (
        attacked.study / "best",
        next((attacked.folder / "cells" / "train").iterdir()) / "image.tif",
    )
    config = TrialConfig.from_settings({"model.backbone": "resnet18", "model.weights": "none"})
    classes = (Category(1, "cell"),)
    model = build_detector(config.model, len(classes), None, config.predict)
    trained_model.save(best, TrainedModel(config, classes, model.eval()))
    data = content(attacked.marker)
    plant(best / file, data)
    if file == "model.safetensors":  # whoever can change the weights can name their sum, too
        document = yaml.safe_load((best / "config.yaml").read_text())
        document["sha256"] = hashlib.sha256(data).hexdigest()
        (best / "config.yaml").write_text(yaml.safe_dump(document))
    told = attacked.ends(
        predict.main,
        "--model",
        str(best),
        "--images",
        str(images),
        "--out",
        "out.json",
        "--device",
        "cpu",
    )
    assert file in told


def test_no_line_of_the_program_unpickles() -> None:
    found = []
    for path in [*(ROOT / "core").rglob("*.py"), *(ROOT / "tune").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found += (
                    [f"{path.relative_to(ROOT)}: {ast.unparse(node)}"] if is_unsafe(node) else []
                )
    assert found == []


def is_unsafe(call: ast.Call) -> bool:
    """Whether a call may run what it reads: loaders of pickles and of arbitrary YAML, and
    evaluation of text.
    """
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    match ast.unparse(call.func):
        case "torch.load":
            return keywords.get("weights_only") != "True"
        case "np.load":
            return keywords.get("allow_pickle") != "False"
        case "yaml.load":
            return [ast.unparse(argument) for argument in call.args[1:]] != [
                "_Loader"
            ]  # of yaml.SafeLoader
        case name:
            return name in {"eval", "exec", "yaml.full_load", "yaml.unsafe_load"} or name.endswith(
                ("pickle.load", "pickle.loads", "Unpickler", "joblib.load", "read_pickle")
            )


@pytest.mark.parametrize(
    "call", ["torch.load(f)", "np.load(f)", "yaml.load(f, yaml.Loader)", "ray.cloudpickle.loads(f)"]
)
def test_a_line_that_would_unpickle_is_found(call: str) -> None:
    (node,) = (node for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Call))
    assert is_unsafe(node)


BOMBS = r"""
import resource, struct, sys, zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from core.data.images import read_ids, read_rgb, read_size
from core.errors import DataError

folder = Path(sys.argv[1])
side = 16_384  # 268 million pixels, three times the limit


def zeros(count):
    packer = zlib.compressobj(1)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(count >> 20)) + packer.flush()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Each file is whole and would decode, to 268 MB (bytes), 1 GB (float32) or more.
strip = zeros(side * 1024)
tags = {"compression": "zlib", "rowsperstrip": 1024}
tifffile.imwrite(folder / "grey.tif", iter([strip] * 16), shape=(side, side), dtype=np.uint8, **tags)
tags["rowsperstrip"] = 256
tifffile.imwrite(folder / "float.tif", iter([strip] * 64), shape=(side, side), dtype=np.float32, **tags)
rows = zeros((side + 1) * side)
head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
(folder / "grey.png").write_bytes(
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
)
Image.new("L", (16, 16)).save(folder / "large.jpg")
jpeg = bytearray((folder / "large.jpg").read_bytes())
start = jpeg.index(b"\xff\xc0") + 5
jpeg[start : start + 4] = struct.pack(">HH", 65_000, 65_000)
(folder / "large.jpg").write_bytes(jpeg)
# Small by their headers, and 256 MB in a strip or in a chunk of text.
tifffile.imwrite(folder / "strip.tif", iter([zeros(1 << 28)]), shape=(20, 30), dtype=np.uint8, compression="zlib")
text = chunk(b"zTXt", b"about\0\0" + zeros(1 << 28))
small = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
(folder / "text.png").write_bytes(
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", small) + text + chunk(b"IDAT", zeros(1 << 20)) + chunk(b"IEND", b"")
)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before = peak()
for name, read in [
    ("grey.tif", read_rgb), ("grey.tif", read_size),
    ("float.tif", lambda path: read_ids(path, (side, side))), ("grey.png", read_rgb),
    ("grey.png", read_size), ("large.jpg", read_rgb), ("large.jpg", read_size),
    ("strip.tif", read_rgb), ("text.png", read_rgb),
]:
    try:
        read(folder / name)
    except DataError as error:
        print(name, "refused:", str(error).removeprefix(str(folder)))
    else:
        print(name, "read")
print("growth", peak() - before)
"""


def test_image_bombs_are_refused_and_take_no_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert all("refused" in line for line in lines), lines
    assert sum("an image may have at most 89,478,485 pixels" in line for line in lines) == 7
    assert float(last.split()[1]) < 60  # MB; the least of them decodes to 256
