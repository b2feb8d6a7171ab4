"""Downloaded datasets, tested with small files in the real formats, from a local server or put there by hand."""

import gzip
import hashlib
import io
import multiprocessing
import os
import re
import socket
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from offramp.datasets import cifar, fashion_mnist, load_dataset
from offramp.datasets.download import data_folder, fetch, read_checked
from offramp.datasets.splits import make_splits

RANDOM = np.random.default_rng(0)
CONTENT = RANDOM.bytes(100_000)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`. `before` is called with each request and may answer it differently."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.files, self.before, self.asked = {}, lambda handler: False, []

    def handle_error(self, request, client_address):
        pass  # the client was killed


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        if self.server.before(self):
            return
        if name in self.server.files:
            self.answer(self.server.files[name])
        else:
            self.send_error(404)

    def answer(self, content, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def no_server(monkeypatch):
    """The URL of a server that does not exist."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """An empty folder for datasets, separate from that of the user who runs the tests."""
    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def no_debian(tmp_path, monkeypatch):
    """Hide the Debian package and the programs that download it."""
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "usr/share/datasets/fashion-mnist")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@contextmanager
def refused(*pieces):
    """Check that the block raises a ValueError with a one-line message that contains all pieces."""
    with pytest.raises(ValueError, match=re.escape(pieces[0])) as error:
        yield error
    assert "\n" not in str(error.value)
    for piece in pieces:
        assert piece in str(error.value)


# Fetching

FILE = {"a.bin": [sha256(CONTENT)]}


def test_datasets_lie_where_the_environment_says(data, monkeypatch):
    assert data_folder("mine") == data / "mine"
    monkeypatch.delenv("OFFRAMP_DATA")
    assert str(data_folder("mine")) == os.path.join("data", "downloads", "mine")


def test_what_is_missing_is_fetched_once(server, data):
    server.files = {"a.bin": CONTENT, "b.bin": b"b"}
    files = FILE | {"b.bin": [sha256(b"b"), sha256(b"c")]}
    data.mkdir()
    (data / "b.bin").write_bytes(b"c")
    for _ in range(2):
        fetch(data, server.url, files)
    assert server.asked == ["a.bin"]
    assert {path.name: path.read_bytes() for path in data.iterdir()} == {"a.bin": CONTENT, "b.bin": b"c"}


def half(handler):
    handler.answer(CONTENT[:50_000], length=len(CONTENT))
    return True


def other(handler):
    handler.answer(b"<html>Please log in</html>")
    return True


FAILURES = {
    "cut off": (half, "no download of"),
    "another file": (other, "another file than expected"),
    "not there": (lambda handler: handler.send_error(404) or True, "no download of"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_after_a_failure_nothing_is_left_and_the_next_run_succeeds(server, data, failure):
    server.files = {"a.bin": CONTENT}
    server.before, reason = FAILURES[failure]
    with refused(reason, f"{server.url}a.bin", f"put into {data}, by hand: a.bin (sha256 {sha256(CONTENT)})"):
        fetch(data, server.url, FILE)
    assert list(data.iterdir()) == []
    server.before = lambda handler: False
    fetch(data, server.url, FILE)
    assert (data / "a.bin").read_bytes() == CONTENT


def test_without_a_network_one_line_says_what_to_put_where(no_server, data):
    with refused(f"no download of {no_server}a.bin", f"put into {data}, by hand: a.bin", "b.bin (sha256 b…)"):
        fetch(data, no_server, FILE | {"b.bin": ["b…"]})


def test_a_killed_download_is_never_taken_for_the_file(server, data):
    asked, killed = threading.Event(), threading.Event()

    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:50_000])
        asked.set()
        return killed.wait(30)

    server.files, server.before = {"a.bin": CONTENT}, stall
    process = multiprocessing.get_context("fork").Process(target=fetch, args=(data, server.url, FILE))
    process.start()
    assert asked.wait(30)
    process.kill()
    process.join()
    killed.set()
    assert not (data / "a.bin").exists()
    server.before = lambda handler: False
    fetch(data, server.url, FILE)
    assert (data / "a.bin").read_bytes() == CONTENT


def test_two_jobs_may_fetch_at_once(server, data):
    both = threading.Barrier(2, timeout=30)
    server.files, server.before = {"a.bin": CONTENT}, lambda handler: both.wait() < 0
    threads = [threading.Thread(target=fetch, args=(data, server.url, FILE)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == ["a.bin"] * 2
    assert [path.name for path in data.iterdir()] == ["a.bin"]
    assert (data / "a.bin").read_bytes() == CONTENT


def test_a_file_by_hand_must_be_the_known_one(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    assert read_checked(path, [sha256(b""), sha256(CONTENT)]) == CONTENT
    path.write_bytes(CONTENT[:-1] + b"!")
    with refused(str(path), f"expected {sha256(CONTENT)}", "delete it and run again"):
        read_checked(path, FILE["a.bin"])


# Fashion-MNIST


def idx(values, magic=b"\0\0\x08"):
    sizes = b"".join(size.to_bytes(4) for size in values.shape)
    return magic + bytes([values.ndim]) + sizes + values.tobytes()


@pytest.fixture
def fashion(monkeypatch):
    """Images and labels of a small Fashion-MNIST, and its files. `FILES` is patched with their hashes."""
    sizes = {"train": 40, "test": 20}
    images = {pool: RANDOM.integers(0, 256, (n, 28, 28), np.uint8) for pool, n in sizes.items()}
    labels = {pool: (np.arange(n) % 10).astype(np.uint8) for pool, n in sizes.items()}
    files = {}
    for pool, stem in fashion_mnist.POOLS.items():
        files[f"{stem}-images-idx3-ubyte.gz"] = gzip.compress(idx(images[pool]))
        files[f"{stem}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels[pool]))
    assert files.keys() == fashion_mnist.FILES.keys()
    monkeypatch.setattr(fashion_mnist, "FILES", {name: [sha256(content)] for name, content in files.items()})
    return images, labels, files


def put(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def check_fashion(dataset, images, labels):
    assert (dataset.name, dataset.classes, dataset.image_shape, dataset.flip) == (
        "fashion_mnist",
        10,
        (1, 28, 28),
        True,
    )
    for pool in "train", "test":
        np.testing.assert_array_equal(dataset.labels[pool], labels[pool])
        index = np.array([3, 0])
        pixels = dataset.inputs(pool, index, augment=False)[:, 0].numpy() * 90.02 + 72.94
        np.testing.assert_allclose(pixels, images[pool][index], atol=1e-3)


def test_fashion_mnist_is_what_its_files_hold(fashion, data):
    images, labels, files = fashion
    put(data / "fashion_mnist", files)
    dataset = load_dataset("fashion_mnist", shift=1)
    check_fashion(dataset, images, labels)
    assert dataset.shift == 1
    assert set(make_splits(dataset, validation=10, seed=0)["pool"]) == {"train", "test"}
    assert torch.isfinite(dataset.inputs("train", np.arange(40), augment=True)).all()


def test_fashion_mnist_is_fetched_from_its_source(fashion, server, monkeypatch, data):
    images, labels, server.files = fashion
    monkeypatch.setattr(fashion_mnist, "URL", server.url)
    check_fashion(load_dataset("fashion_mnist"), images, labels)
    check_fashion(load_dataset("fashion_mnist"), images, labels)
    assert sorted(server.asked) == sorted(server.files)  # once
    assert {path.name for path in (data / "fashion_mnist").iterdir()} == set(server.files)


def test_fashion_mnist_is_taken_from_the_installed_package(fashion, no_server, monkeypatch, data):
    images, labels, files = fashion
    monkeypatch.setattr(fashion_mnist, "URL", no_server)
    put(fashion_mnist.INSTALLED, files)
    check_fashion(load_dataset("fashion_mnist"), images, labels)
    assert {path.name for path in (data / "fashion_mnist").iterdir()} == set(files)


def test_fashion_mnist_is_taken_from_the_package_that_apt_fetches(fashion, no_server, monkeypatch, tmp_path, data):
    images, labels, files = fashion
    monkeypatch.setattr(fashion_mnist, "URL", no_server)
    package = tmp_path / "package"
    put(package.joinpath(*fashion_mnist.INSTALLED.parts[1:]), files)
    programs = {
        "apt-get": '[ "$*" = "download dataset-fashion-mnist" ] && echo package > dataset-fashion-mnist_1_all.deb',
        "dpkg": f'[ "$1" = -x ] && [ "$(/bin/cat "$2")" = package ] && /bin/cp -r {package}/. "$3"',
    }
    for name, script in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    check_fashion(load_dataset("fashion_mnist"), images, labels)
    assert {path.name for path in (data / "fashion_mnist").iterdir()} == set(files)


def test_another_package_is_not_used(fashion, server, monkeypatch):
    images, labels, server.files = fashion
    monkeypatch.setattr(fashion_mnist, "URL", server.url)
    put(fashion_mnist.INSTALLED, dict.fromkeys(server.files, b"another"))
    check_fashion(load_dataset("fashion_mnist"), images, labels)


def test_without_package_and_network_all_missing_files_are_named(fashion, no_server, monkeypatch, data):
    files = fashion[2]
    monkeypatch.setattr(fashion_mnist, "URL", no_server)
    there = "train-labels-idx1-ubyte.gz"
    put(data / "fashion_mnist", {there: files.pop(there)})
    with refused(f"put into {data / 'fashion_mnist'}, by hand: ", *files) as error:
        load_dataset("fashion_mnist")
    assert there not in str(error.value)


def test_a_damaged_file_of_fashion_mnist_is_named(fashion, data):
    files = fashion[2]
    name = "t10k-images-idx3-ubyte.gz"
    put(data / "fashion_mnist", files | {name: files[name][:-1]})
    with refused(str(data / "fashion_mnist" / name), "damaged or another file", "delete it and run again"):
        load_dataset("fashion_mnist")


@pytest.mark.parametrize("shape", [(24,), (6, 4), (2, 3, 4), (0, 3)])
def test_idx_files_have_the_shape_that_they_say(shape, tmp_path):
    values = RANDOM.integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(fashion_mnist.parse_idx(idx(values), tmp_path), values)


CUBE = np.zeros((2, 3, 4), np.uint8)
NO_IDX = {
    "nothing": b"",
    "no dimensions": b"\0\0\x08",
    "0 dimensions": b"\0\0\x08\0",
    "cut in the header": idx(CUBE)[:9],
    "cut": idx(CUBE)[:-1],
    "too long": idx(CUBE) + b"\0",
    "of floats": idx(CUBE, b"\0\0\x0d"),
    "no zeros": idx(CUBE, b"\0\x01\x08"),
    "huge": b"\0\0\x08\x03" + b"\xff" * 12,
}


@pytest.mark.parametrize("content", NO_IDX.values(), ids=NO_IDX)
def test_what_is_no_idx_file_is_refused(content, tmp_path):
    with refused(str(tmp_path), "no IDX file of bytes"):
        fashion_mnist.parse_idx(content, tmp_path)


# CIFAR

POOLS = {"train": 20, "test": 6}


def tar_gz(members):
    """Return an archive of files and of additional members."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for member, content in members:
            member = tarfile.TarInfo(member) if isinstance(member, str) else member
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def cifar_members(name):
    """Return labels and pixels of a small CIFAR, and the content of its archive as (name, content)."""
    archive = cifar.ARCHIVES[name]
    labels = {pool: RANDOM.integers(0, archive.classes, n) for pool, n in POOLS.items()}
    pixels = {pool: RANDOM.integers(0, 256, (n, 3, 32, 32), np.uint8) for pool, n in POOLS.items()}
    members = [("readme.html", b"hello")]
    for pool in POOLS:
        coarse = RANDOM.integers(0, 20, (POOLS[pool], archive.label_bytes - 1))
        samples = np.column_stack([coarse, labels[pool], pixels[pool].reshape(POOLS[pool], -1)]).astype(np.uint8)
        files = archive.members[pool]
        members += [(file, part.tobytes()) for file, part in zip(files, np.array_split(samples, len(files)))]
    return labels, pixels, members


def put_archive(monkeypatch, folder, name, members):
    archive = replace(cifar.ARCHIVES[name], sha256=sha256(content := tar_gz(members)))
    monkeypatch.setitem(cifar.ARCHIVES, name, archive)
    put(folder / name, {archive.name: content})
    return folder / name / archive.name


STATISTICS = {
    "cifar10": ([0.4914, 0.4824, 0.4467], [0.2471, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
}


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_what_its_archive_holds(name, classes, monkeypatch, data):
    labels, pixels, members = cifar_members(name)
    put_archive(monkeypatch, data, name, members[::-1])  # in any order
    dataset = load_dataset(name)
    assert (dataset.name, dataset.classes, dataset.image_shape) == (name, classes, (3, 32, 32))
    assert (dataset.shift, dataset.flip) == (4, True)
    mean, std = (np.array(values)[:, None, None] for values in STATISTICS[name])
    for pool, n in POOLS.items():
        np.testing.assert_array_equal(dataset.labels[pool], labels[pool])
        images = dataset.inputs(pool, np.arange(n), augment=False).numpy()
        np.testing.assert_allclose(images * std + mean, pixels[pool] / 255, atol=1e-6)


def test_cifar_is_fetched_from_its_source(server, monkeypatch):
    labels, _, members = cifar_members("cifar10")
    server.files = {"cifar-10-binary.tar.gz": (content := tar_gz(members))}
    monkeypatch.setattr(cifar, "URL", server.url)
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", replace(cifar.ARCHIVES["cifar10"], sha256=sha256(content)))
    for _ in range(2):
        np.testing.assert_array_equal(load_dataset("cifar10").labels["test"], labels["test"])
    assert server.asked == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_corrupted_archive_is_refused(name, monkeypatch, data):
    path = put_archive(monkeypatch, data, name, cifar_members(name)[2])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with refused(f"{path}: damaged or another file", cifar.ARCHIVES[name].sha256, "delete it and run again"):
        load_dataset(name)


def test_an_archive_without_a_member_is_refused(monkeypatch, data):
    members = [member for member in cifar_members("cifar10")[2] if "data_batch_3" not in member[0]]
    path = put_archive(monkeypatch, data, "cifar10", members)
    with refused(f"{path}: holds no cifar-10-batches-bin/data_batch_3.bin; only readme.html, "):
        load_dataset("cifar10")


def test_members_of_an_archive_lead_nowhere(monkeypatch, tmp_path, data):
    labels, _, members = cifar_members("cifar100")
    link = tarfile.TarInfo("cifar-100-binary/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/"
    device = tarfile.TarInfo("cifar-100-binary/null")
    device.type = tarfile.CHRTYPE
    hostile = [("../outside", b"!"), (str(tmp_path / "absolute"), b"!"), (link, b""), (device, b"")]
    put_archive(monkeypatch, data, "cifar100", hostile + members)
    before = sorted(tmp_path.rglob("*"))
    np.testing.assert_array_equal(load_dataset("cifar100").labels["train"], labels["train"])
    assert sorted(tmp_path.rglob("*")) == before
