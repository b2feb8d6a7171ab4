"""Served bundles answer each of many simultaneous requests as `load` does, and refuse what is wrong."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from offramp import make_policy
from offramp.datasets.preparing import ImagePreparation, TextPreparation
from offramp.models import build_model
from offramp.runtime import export_bundle, load
from offramp.runtime.messages import MEBIBYTE, Format, Refused, prepared, responses
from test_bundle import GREY, SMALL, edited

torch.set_num_threads(1)

N = 96
NAMES = ("ant", "bee", "cat", "dog")
PIXELS = np.random.default_rng(0).integers(0, 17, (N, 1, 8, 8), np.uint8)
LIMIT = 4096


def msdnet():
    """A tiny MSDNet whose exits are sure of some samples and unsure of others."""
    torch.manual_seed(1)
    model = build_model("msdnet", classes=4, image_shape=(1, 8, 8), **(SMALL | {"exits": 2})).eval()
    with torch.no_grad():
        for layer in model.heads.modules():
            if isinstance(layer, nn.Linear):
                layer.weight *= 20
    return model


def export(folder, *models, preparation=GREY, **options):
    """Export models of images with a threshold that half of the samples reach at the first exit."""
    export_bundle(folder, models, make_policy("confidence"), 0.5, preparation, names=NAMES, **options)
    bundle = load(folder, threshold=-np.inf)
    edited(folder, threshold=float(np.median(bundle(bundle.prepare(PIXELS)).signal)))
    return folder


def expected(folder, pixels=PIXELS):
    """Return the response to each of these samples, computed one by one."""
    bundle = load(folder)
    return [responses(bundle(bundle.prepare(each[None])), NAMES)[0] for each in pixels]


def assert_same(found, wanted):
    for key in ("prediction", "class", "exit", "cost"):
        assert found[key] == wanted[key]
    for key in ("signal", "confidence"):  # onnxruntime adds in another order in larger batches
        assert found[key] == pytest.approx(wanted[key], abs=1e-4)
    assert found.keys() == wanted.keys()


def call(url, body=None):
    """Return the status and the text of the response, which may be an error."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# Requests


BAD = [
    (b"pixels", 400, "request: not JSON"),
    (b"\xff", 400, "request: not JSON"),
    (b"", 400, "request: not JSON"),
    (b"[" * 2000, 400, "request: not JSON"),
    (b'{"input": [[[NaN]]]}', 400, r"NaN is not a number in JSON"),
    (b"[]", 422, "request: list; expected an object with the key pixels or input"),
    (b"{}", 422, r"request: keys \[\]; expected"),
    (b'{"pixels": [], "input": []}', 422, r"request: keys \['pixels', 'input'\]; expected"),
    (b'{"image": []}', 422, r"request: keys \['image'\]; expected"),
    (b'{"text": "a"}', 422, r"request: keys \['text'\]; expected"),
    (b'{"pixels": [[1, 2], [3]]}', 422, r"pixels: not a regular array; expected shape \(1, 8, 8\)"),
    (b'{"pixels": [[[1, 2]]]}', 422, r"pixels: shape \(1, 1, 2\); expected \(1, 8, 8\)"),
    (b'{"pixels": 1}', 422, r"pixels: shape \(\); expected"),
    *(
        (json.dumps({key: np.full((1, 8, 8), value).tolist()}).encode(), 422, message)
        for key, value, message in (
            ("pixels", 0.5, "pixels: not all values are integers from 0 to 255"),
            ("pixels", -1, "pixels: a value from -1 to -1; expected integers from 0 to 255"),
            ("pixels", 256, "pixels: a value from 256 to 256"),
            ("pixels", "1", "pixels: not all values are integers"),
            ("pixels", True, "pixels: not all values are integers"),
            ("input", "a", "input: not all values are numbers"),
            ("input", 1e39, "input: a value is not finite in float32"),
        )
    ),
    (b'{"pixels": [[[' + b"1, " * LIMIT + b"1]]]}", 413, f"request: more than {LIMIT} bytes"),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD)
def test_requests_that_are_refused(body, status, message):
    with pytest.raises(Refused, match=message) as refused:
        Format((GREY,), LIMIT).read(body)
    assert refused.value.status == status
    assert "\n" not in str(refused.value)


def test_requests_for_texts():
    one, two = (TextPreparation(tokenizer="t", max_tokens=9, pad=0, columns=c) for c in (("text",), ("a", "b")))
    assert Format((one,), LIMIT).read('{"text": "naïve café"}'.encode()) == ("naïve café",)
    assert Format((two,), LIMIT).read(b'{"text": ["a", "b"]}') == ("a", "b")
    for prepare, value in ((one, ["a", "b"]), (two, "a"), (two, ["a"]), (two, ["a", 1]), (one, None), (one, {"a": 1})):
        with pytest.raises(Refused, match="text: expected a"):
            Format((prepare,), LIMIT).read(json.dumps({"text": value}).encode())
    with pytest.raises(Refused, match="text: a surrogate without its pair"):
        Format((one,), LIMIT).read(b'{"text": "\\ud800"}')


def test_requests_for_models_with_their_own_preparation():
    form = Format((GREY, ImagePreparation(shape=(1, 8, 8))), LIMIT)
    np.testing.assert_array_equal(form.read(json.dumps({"pixels": PIXELS[0].tolist()}).encode()), PIXELS[0])
    with pytest.raises(Refused, match="input: the models of this bundle have preparations of their own"):
        form.read(json.dumps({"input": PIXELS[0].tolist()}).encode())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return export(tmp_path_factory.mktemp("serving") / "bundle", msdnet())


def test_prepared_and_stored_images_in_one_batch(bundle):
    loaded = load(bundle)
    form = Format.of(loaded.manifest)
    assert form.max_bytes == MEBIBYTE
    bodies = [{"pixels": PIXELS[0].tolist()}, {"input": GREY(PIXELS[1:2])[0].tolist()}]
    found = prepared(loaded, [form.read(json.dumps(body).encode()) for body in bodies])
    np.testing.assert_array_equal(found.arrays[0], GREY(PIXELS[:2]))


def test_the_limit_is_what_the_input_needs(bundle):
    large = ImagePreparation(shape=(3, 300, 300))
    body = json.dumps({"input": np.random.default_rng(0).normal(size=large.shape).tolist()})
    assert MEBIBYTE < len(body) < Format((large,), 10**9).max_bytes


# LitServe


@dataclass
class Server:
    process: subprocess.Popen
    url: str

    def predict(self, body):
        return call(f"{self.url}/predict", body)

    def metric(self, name):
        """Return the values of a metric by their labels."""
        status, text = call(f"{self.url}/metrics")
        assert status == 200
        rows = re.findall(rf"^{name}(?:{{(.*?)}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in rows}


@pytest.fixture
def server(bundle, tmp_path):
    port = free_port()
    words = ["serve", bundle, "--port", port, "--batch-size", 16, "--batch-timeout", 20, "--max-bytes", LIMIT]
    with (tmp_path / "log.txt").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "offramp.cli", *map(str, words)],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
            while True:
                try:
                    if call(f"{url}/health") == (200, "ok"):
                        break
                except OSError:
                    pass
                assert process.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < end, Path(log.name).read_text()
                time.sleep(0.05)
            yield Server(process, url)
        finally:
            try:
                process.terminate()
                process.wait(timeout=20)
            finally:
                _, left = psutil.wait_procs(running(process.pid), timeout=5)
                for each in left:
                    each.kill()
        assert left == []
        assert list(tmp_path.glob("offramp-metrics-*")) == []


def running(session):
    """Return the processes of a session that have not ended."""
    return [each for each in psutil.process_iter(["status"]) if of(each, session) and each.status() != "zombie"]


def of(process, session):
    try:
        return os.getsid(process.pid) == session
    except OSError:
        return False


def test_a_server_under_load(server, bundle):
    bodies = [json.dumps({"pixels": each.tolist()}).encode() for each in PIXELS]
    overflow = json.dumps({"input": np.full((1, 8, 8), 3e38).tolist()}).encode()  # finite, but its logits are not
    bad = [*BAD, (overflow, 422, "logits must be finite")]
    mixed = [each for i, body in enumerate(bodies) for each in ([bad[i % len(bad)][0]] if i % 3 == 0 else []) + [body]]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(server.predict, mixed))
    wanted = dict(zip(bodies, expected(bundle)))
    messages = {body: (status, message) for body, status, message in bad}
    for body, (status, text) in zip(mixed, found):
        if body in wanted:
            assert status == 200, text
            assert_same(json.loads(text), wanted[body])
        else:
            assert status == messages[body][0]
            detail = json.loads(text)["detail"]
            assert re.search(messages[body][1], detail)
            assert "\n" not in detail
    exits = [wanted[body]["exit"] for body in bodies]
    assert set(exits) == {1, 2}
    counted = server.metric("offramp_exits_total")
    assert counted == {f'exit="{exit_}"': exits.count(exit_) for exit_ in set(exits)}
    assert server.metric("offramp_latency_seconds_count")[""] == N
    statuses = server.metric("offramp_requests_total")
    assert statuses['status="200"'] == N
    assert sum(statuses.values()) == len(mixed)
    cost = sum(each["cost"] for each in wanted.values())
    full = N * load(bundle).cost(GREY(PIXELS[:1]))[-1]
    assert server.metric("offramp_cost_total")[""] == pytest.approx(cost)
    assert server.metric("offramp_full_cost_total")[""] == pytest.approx(full)
    assert server.metric("offramp_cost_share")[""] == pytest.approx(cost / full)
    listening = [each.laddr for each in psutil.net_connections("inet") if each.status == "LISTEN"]
    assert {each.ip for each in listening if server.url.endswith(f":{each.port}")} == {"127.0.0.1"}
    assert call(f"{server.url}/predict")[0] == 405
    assert call(f"{server.url}/health") == (200, "ok")
