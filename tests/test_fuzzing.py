"""Files that were changed at random are read or refused: in one line, within some seconds, in little memory."""

import copy
import gzip
import json
import resource
import signal
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from offramp import ExitRecord, cascade, load_policies, make_policy, save_policies
from offramp._io.arrays import open_arrays, save_arrays
from offramp._io.tables import read_table, write_table
from offramp.cascades.settings import CascadeSettings
from offramp.datasets.preparing import ImagePreparation
from offramp.online import ConfidenceAlarm, Online, RiskAlarm
from offramp.records.example import example_records
from offramp.records.importing import import_outputs
from offramp.runtime import manifest as manifests
from offramp.runtime.bundle import load_policy
from offramp.runtime.inputs import read_inputs
from offramp.runtime.manifest import Manifest, Model, Stage, read_manifest
from offramp.study.params import read_params, select_study

ROOT = Path(__file__).parents[1]
SECONDS, MEGABYTES = 20, 200  # what reading a file of some kilobytes may take
LENGTHS = (0, 1, 2**15, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1)
IMAGES = ImagePreparation(shape=(1, 2, 2))


# One small file of each kind


def record() -> ExitRecord:
    return example_records()[0][:8]


def table() -> pd.DataFrame:
    its = record()
    columns = {"id": [f"image {n}" for n in its.index], "label": its.labels}
    for i in range(2):
        columns |= {f"prediction_{i}": its.prediction[:, i], f"confidence_{i}": its.confidence()[:, i]}
    return pd.DataFrame(columns)


def write_policies(path: Path) -> None:
    save_policies({"a": make_policy("pcee", bins=3).fit(record()), "b": make_policy("beem-a").fit(record())}, path)


def write_online(path: Path) -> None:
    alarms = {"shift": ConfidenceAlarm(record()), "risk": RiskAlarm(0.2)}
    online = Online(make_policy("pcee", bins=3).fit(record()), 0.9, record(), "window", alarms=alarms)
    online.decide(record())
    online.feedback(record().index[:5], record().labels[:5])
    online.save(path)


def write_bundle(folder: Path) -> None:
    folder.mkdir()
    write_policies(folder / "policy.safetensors")
    (folder / "stage-1.onnx").write_bytes(b"a network")
    stage = Stage(file="stage-1.onnx", inputs=("x",), outputs=("logits",))
    model = Model(preparation=IMAGES, cost=((1.0,),), stages=(stage,))
    files = {file.name: manifests.sha256(file) for file in folder.iterdir()}
    about = {"offramp": "0", "opset": 18, "classes": 10, "names": (), "unit": "MAC", "policy": "a", "threshold": 0.9}
    Manifest(**about, models=(model,), files=files).write(folder)


def write_archive(path: Path) -> None:
    np.savez(path, logits=record().logits[:, :2], labels=record().labels)


def read_bundle(folder: Path) -> None:
    load_policy(folder, read_manifest(folder))


def read_record(path: Path) -> None:
    _ = ExitRecord.load(path).logits  # read when they are used


def read_outputs(path: Path) -> None:
    import_outputs(path, cost=[1, 2])


def read_numbers(path: Path) -> None:
    read_inputs(path, [IMAGES])


class Kind(NamedTuple):
    """A kind of file: its name, and functions that write it and read it to its end."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    inside: str = ""  # the file that is changed, if the name is that of a folder


KINDS = (
    Kind("record.safetensors", lambda path: record().save(path), read_record),
    Kind("policies.safetensors", write_policies, load_policies),
    Kind("online.safetensors", write_online, Online.load),
    Kind("table.parquet", lambda path: write_table(table(), path), read_table),
    Kind("table.csv", lambda path: write_table(table(), path), read_table),
    Kind("cascade.json", lambda path: CascadeSettings.of(cascade([record()] * 2)).save(path), CascadeSettings.load),
    Kind("bundle", write_bundle, read_bundle, "manifest.json"),
    Kind("inputs.npy", lambda path: np.save(path, np.zeros((3, 1, 2, 2), np.float32)), read_numbers),
    Kind("outputs.csv", lambda path: table().to_csv(path, index=False), read_outputs),
    Kind("outputs.csv.gz", lambda path: table().to_csv(path, index=False), read_outputs),
    Kind("outputs.tsv", lambda path: table().to_csv(path, index=False, sep="\t"), read_outputs),
    Kind("outputs.jsonl", lambda path: table().to_json(path, orient="records", lines=True), read_outputs),
    Kind("outputs.parquet", lambda path: table().to_parquet(path), read_outputs),
    Kind("outputs.npz", write_archive, read_outputs),
    Kind("params.yaml", lambda path: path.write_bytes((ROOT / "params.yaml").read_bytes()[:3000]), read_params),
)
SEALED = {kind.name: kind for kind in KINDS[:3]}


# Changes


@st.composite
def changes(draw) -> Callable[[bytes], bytes]:
    """Draw a change of the bytes of a file."""
    what = draw(st.sampled_from(("flip", "cut", "insert", "remove", "repeat", "swap", "length", "digits")))
    start, size = draw(st.floats(0, 1)), draw(st.integers(1, 64))
    extra = draw(st.binary(min_size=1, max_size=32))
    number = draw(st.sampled_from(LENGTHS))
    width = draw(st.sampled_from((4, 8)))
    bit = draw(st.integers(0, 7))

    def changed(content: bytes) -> bytes:
        place = min(int(start * len(content)), len(content) - 1)
        before, part, after = content[:place], content[place : place + size], content[place + size :]
        match what:
            case "flip":
                return before + bytes([part[0] ^ (1 << bit)]) + part[1:] + after
            case "cut":
                return before
            case "insert":
                return before + extra + part + after
            case "remove":
                return before + after
            case "repeat":
                return before + part * 3 + after
            case "swap":
                return before + after[:size] + part + after[size:]
            case "length":
                return before + (number % 2 ** (8 * width)).to_bytes(width, "little") + content[place + width :]
        digits = [n for n in range(place, len(content)) if content[n : n + 1].isdigit()]
        first = digits[0] if digits else place
        return content[:first] + str(number).encode() + content[first + 1 :]

    return changed


JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from((-1, 0, 1, 10**12, 0.5, float("inf"), "", "a", "pcee")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("a", "classes")), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def changed_json(draw, values: Any) -> Any:
    """Draw a copy of a JSON value in which one value, at any depth, is another one, or missing."""
    values = copy.deepcopy(values)
    where = values
    while True:
        keys = list(where) if isinstance(where, dict) else range(len(where))
        key = draw(st.sampled_from(keys))
        inner = where[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        where = inner
    if draw(st.booleans()):
        del where[key]
    else:
        where[key] = draw(JSON)
    return values


# What every reader promises


@contextmanager
def limited(path: Path):
    """Require that what is done with a file ends soon, takes little memory, and raises only what is documented.

    The list that it yields has the message of the error afterwards, if there was one.
    """

    def late(*_):
        raise AssertionError(f"{path}: more than {SECONDS} s")

    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is that from here on
    address_space = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") * 2**10 + 2**32, address_space[1]))
    before, handler, refused = status("VmHWM"), signal.signal(signal.SIGALRM, late), []
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield refused
    except (ValueError, OSError) as error:
        refused.append(str(error))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, address_space)
    assert all(path.name in message and "\n" not in message for message in refused), refused
    assert status("VmHWM") - before < MEGABYTES * 2**10


def status(name: str) -> int:
    """A number of this process in KiB: VmHWM is its highest memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith(f"{name}:"))
    return int(line.split()[1])


def often(n: int):
    return settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))


def change_bytes(kind: Kind, folder: Path, n: int) -> None:
    path = folder / kind.name
    kind.write(path)
    kind.read(path)  # unchanged, it is read
    file = path / kind.inside
    whole = file.read_bytes()
    packed = path.suffix == ".gz"
    whole = gzip.decompress(whole) if packed else whole

    @often(n)
    @given(st.lists(changes(), min_size=1, max_size=2))
    def check(several):
        content = whole
        for change in several:
            content = change(content) if content else content
        file.write_bytes(gzip.compress(content) if packed else content)
        with limited(path):
            kind.read(path)

    check()


def change_values(kind: Kind, folder: Path, n: int) -> None:
    """Change metadata and arrays, and write them with checksums that fit."""
    path = folder / kind.name
    kind.write(path)
    form, stored, metadata = open_arrays(path, *(f"offramp-{name}/1" for name in ("record", "policies", "online")))
    whole = {name: np.array(array.read()) for name, array in stored.items()}

    @often(n)
    @given(st.data())
    def check(data):
        arrays, about = dict(whole), metadata
        if data.draw(st.booleans()):
            about = data.draw(changed_json(metadata))
        else:
            name = data.draw(st.sampled_from(sorted(arrays)))
            values = arrays.pop(name)
            match data.draw(st.sampled_from(("missing", "type", "shape", "value"))):
                case "type":
                    with np.errstate(all="ignore"):
                        arrays[name] = values.astype(data.draw(st.sampled_from(("<f8", "<i8", "<f4", "|u1", "|b1"))))
                case "shape":
                    flat = values.reshape(-1)
                    arrays[name] = data.draw(st.sampled_from((flat, flat[:-1], values[None], flat[:0])))
                case "value":
                    number = data.draw(st.sampled_from((-1, 0, 2**31, np.inf, np.nan)))
                    with np.errstate(all="ignore"):
                        arrays[name] = np.full_like(values, number if values.dtype.kind == "f" else np.int64(2**31))
        save_arrays(path, form, arrays, about)
        with limited(path):
            kind.read(path)

    check()


def change_manifest(folder: Path, n: int) -> None:
    path = folder / "bundle"
    write_bundle(path)
    values = json.loads((path / "manifest.json").read_text())
    del values["checksum"]

    @often(n)
    @given(changed_json(values))
    def check(values):
        values["checksum"] = manifests._checksum(values)
        (path / "manifest.json").write_text(json.dumps(values))
        with limited(path):
            read_bundle(path)

    check()


SCHEMA = ROOT / "workflow/schemas/params.schema.yaml"
ODD = st.none() | st.booleans() | st.sampled_from((-1, 0, 10**30, -1e300, 1e-300, float("nan"), float("inf"), "", "x"))
SETTING = ODD | st.lists(ODD, max_size=2) | st.dictionaries(st.sampled_from(("model", "x")), ODD, max_size=2)


@st.composite
def changed_params(draw, params: dict) -> tuple[dict, list]:
    """Draw parameters with one study, in which one setting, at any depth, is changed, and the path of this setting."""
    study = draw(st.sampled_from(sorted(params["studies"])))
    params = copy.deepcopy(params | {"study": study, "studies": {study: params["studies"][study]}})
    where, path = params, []
    while True:
        key = draw(st.sampled_from(list(where) if isinstance(where, dict) else range(len(where))))
        path.append(key)
        if not isinstance(where[key], dict | list) or not where[key] or draw(st.integers(0, 3)) == 0:
            break
        where = where[key]
    match draw(st.sampled_from(("value", "value", "missing", "renamed", "key"))):
        case "value":
            where[key] = draw(SETTING)
        case "missing":
            del where[key]
        case "renamed" if isinstance(where, dict):
            where[f"{key}x"] = where.pop(key)
        case _ if isinstance(where, dict):
            path[-1] = draw(st.sampled_from((0, None, True, 1.5)))
            where[path[-1]] = draw(ODD)
    return params, path


def change_params(folder: Path, n: int) -> None:
    whole = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))

    @often(n)
    @given(changed_params(whole))
    def check(changed):
        params, path = changed
        with limited(Path("params.yaml")) as refused:
            select_study(params, SCHEMA)
        for message in refused:
            assert len(message) < 1000
            assert any(str(key) in message for key in path), (path, message)

    check()


TESTS = [
    *(pytest.param(change_bytes, kind, id=f"bytes of {kind.name}") for kind in KINDS),
    *(pytest.param(change_values, kind, id=f"values of {name}") for name, kind in SEALED.items()),
    pytest.param(lambda _, *more: change_manifest(*more), None, id="values of manifest.json"),
    pytest.param(lambda _, *more: change_params(*more), None, id="values of params.yaml"),
]


@pytest.mark.parametrize(("check", "kind"), TESTS)
def test_changed_files(check, kind, tmp_path):
    check(kind, tmp_path, 5)


@pytest.mark.nightly
@pytest.mark.parametrize(("check", "kind"), TESTS)
def test_a_thousand_changed_files(check, kind, tmp_path):
    check(kind, tmp_path, 1000)


# Faults that were found in this way, or by reading the code for the page about security


def test_whole_numbers_that_are_too_large(tmp_path):
    (tmp_path / "o.jsonl").write_text(
        '{"label": 0, "prediction": 0}\n{"label": 123456789012345678901234, "prediction": 0}\n'
    )
    with pytest.raises(ValueError, match=r"o\.jsonl: label in row 2 is 12345678901234567890…; expected a whole number"):
        import_outputs(tmp_path / "o.jsonl", cost=[1])


@pytest.mark.parametrize("header", ["{'descr': '<f4', 'shape': (3", "\0" * 40, "('a' " + "(" * 90])
def test_a_header_of_numpy_that_is_no_python(header, tmp_path):
    text = header.encode().ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(ValueError, match=r"x\.npy: not a readable \.npy file"):
        read_numbers(tmp_path / "x.npy")


@pytest.mark.parametrize(("write", "read"), [(write_policies, load_policies), (write_online, Online.load)])
@pytest.mark.parametrize("change", [{}, {"policies": None}, {"policies": {"policy": {"policy": ["pcee"]}}}])
def test_metadata_that_are_not_those_of_the_kind(write, read, change, tmp_path):
    write(tmp_path / "f.safetensors")
    form, stored, metadata = open_arrays(tmp_path / "f.safetensors", "offramp-policies/1", "offramp-online/1")
    about = {**metadata, **change} if change else {}
    save_arrays(tmp_path / "f.safetensors", form, {name: np.array(its.read()) for name, its in stored.items()}, about)
    with pytest.raises(ValueError, match=rf"f\.safetensors: [^\n]*; expected a whole {form} file$"):
        read(tmp_path / "f.safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [("method/place", "the state of exit 1 has bin 2147483648"), ("memory/total", "8 of 2147483648 samples")],
)
def test_a_state_that_would_need_much_memory(name, message, tmp_path):
    write_online(tmp_path / "o.safetensors")
    form, stored, metadata = open_arrays(tmp_path / "o.safetensors", "offramp-online/1")
    arrays = {key: np.array(its.read()) for key, its in stored.items()}
    save_arrays(tmp_path / "o.safetensors", form, arrays | {name: np.full_like(arrays[name], 2**31)}, metadata)
    with pytest.raises(ValueError, match=rf"o\.safetensors: {message}"):
        Online.load(tmp_path / "o.safetensors")


@pytest.mark.parametrize("metadata", [{"checksums": "[]"}, {"x": "[" * 100_000}])
def test_metadata_of_other_programs(metadata, tmp_path):
    save_file({"cost": np.ones(2)}, tmp_path / "f.safetensors", {"format": "offramp-record/1", **metadata})
    with pytest.raises(ValueError, match=r"f\.safetensors: not readable"):
        ExitRecord.load(tmp_path / "f.safetensors")


def test_a_manifest_names_no_files_outside_of_its_folder(tmp_path):
    write_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle/manifest.json"
    values = json.loads(file.read_text())
    del values["checksum"]
    (tmp_path / "secret").write_bytes(b"a network")
    values["files"]["../secret"] = values["files"]["stage-1.onnx"]
    file.write_text(json.dumps({**values, "checksum": manifests._checksum(values)}))
    with pytest.raises(
        ValueError, match=r"manifest\.json: files: '\.\./secret' is not the name of a file in the folder"
    ):
        read_manifest(tmp_path / "bundle")
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"manifest\.json: not readable"):
        read_manifest(tmp_path / "bundle")
