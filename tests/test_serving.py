"""Served bundles answer each of many simultaneous requests as `load` does, and refuse what is wrong."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from offramp import ExitRecord, make_policy
from offramp.datasets.base import Vocabulary
from offramp.datasets.preparing import ImagePreparation, TextPreparation
from offramp.models import build_model
from offramp.models.wrapping import Staged
from offramp.online import Online
from offramp.runtime import export_bundle, load
from offramp.runtime import server as server_module
from offramp.runtime.manifest import Combined
from offramp.runtime.messages import MEBIBYTE, Feedback, Format, Refused, prepared, responses
from test_bundle import GREY, SMALL, Single, edited
from test_encoder import config_of

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


def requests_of(pixels):
    return [json.dumps({"pixels": each.tolist()}).encode() for each in pixels]


def call(url, body=None):
    """Return the status and the text of the response, which may be an error."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as response:
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


def online_policy(folder, **options):
    """An online policy for the bundle, fitted on the record of the samples, and this record."""
    bundle = load(folder, threshold=np.inf)
    x = bundle.prepare(PIXELS)
    run = bundle.start(x)
    logits = np.stack([run.step()[0] for _ in range(bundle.n_exits)], axis=1)  # (N, L, C)
    record = ExitRecord(logits, np.arange(N) % 4, bundle.cost(x))
    policy = make_policy("pcee", bins=5).fit(record)
    threshold = float(np.median(policy.signal(record)[:, 0]))
    return Online(policy, threshold, record, "window", size=40, **options), record


def test_a_worker_that_learns(bundle, tmp_path):
    """Feedback and samples in one batch, what is refused, and the state after a restart."""
    online, record = online_policy(bundle, source="audited", audit=0.5)
    online.save(tmp_path / "state")
    api = server_module._API(bundle, str(tmp_path / "state"), {}, max_batch_size=16, batch_timeout=0)
    api.setup("cpu")
    found = api.predict(list(PIXELS[:40]))
    expected = online.decide(record, ids=[each["id"] for each in found], rows=np.arange(40))
    assert [each["prediction"] for each in found] == expected.prediction.tolist()
    assert [each["exit"] for each in found] == (expected.exit + 1).tolist()
    assert [each["cost"] for each in found] == expected.cost.tolist()
    audited, other = (np.flatnonzero(each).tolist() for each in (expected.audited, ~expected.audited))
    ids = [found[place]["id"] for place in audited]
    learned, answer, again, wrong = api.predict(
        [
            Feedback(ids, record.labels[audited].tolist()),
            PIXELS[40],
            Feedback(ids[:1], [0]),
            Feedback([found[other[0]]["id"]], [0]),
        ]
    )
    assert learned == {"learned": len(audited)}
    assert answer["id"] not in ids
    assert (again.status, wrong.status) == (422, 422)
    assert "has feedback twice" in str(again)
    assert "was not audited" in str(wrong)
    online.feedback(ids, record.labels[audited])
    api.save_if_due()
    assert Online.load(tmp_path / "state").waiting.tolist() == []  # it is not due yet
    api.saved_at -= server_module.SAVE
    api.save_if_due()
    again = Online.load(tmp_path / "state")
    assert len(again.waiting) == 41 - len(audited)
    for name, values in online.method.state.items():
        np.testing.assert_array_equal(again.method.state[name], values)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"[1]", 422, "request: list; expected an object with the keys ids and labels"),
        (b'{"ids": [1]}', 422, r"request: keys \['ids'\]; expected an object with the keys ids and labels"),
        (b'{"ids": 1, "labels": [1]}', 422, "ids: expected a list of whole numbers up to 2\\^53"),
        (b'{"ids": [1], "labels": [true]}', 422, "labels: expected a list of whole numbers"),
        (b'{"ids": [1.5], "labels": [1]}', 422, "ids: expected a list of whole numbers"),
        (b'{"ids": [99999999999999999999], "labels": [1]}', 422, "ids: expected a list of whole numbers"),
    ],
)
def test_feedback_that_is_refused(body, status, message):
    with pytest.raises(Refused, match=message) as error:
        Format((GREY,), LIMIT).read_feedback(body)
    assert error.value.status == status


def test_online_policies_that_are_refused(bundle, tmp_path):
    online, record = online_policy(bundle)
    online.save(tmp_path / "state")
    with pytest.raises(ValueError, match="2 workers, which would learn apart; expected 1 with an online policy"):
        server_module.serve(bundle, online=tmp_path / "state", workers=2)
    short = ExitRecord(record.logits[:, :1], record.labels, record.cost[:1])
    Online(make_policy("confidence"), 0.5, short, "static").save(tmp_path / "short")
    with pytest.raises(ValueError, match="the model has 2 exits; the online policy is for 1"):
        server_module.serve(bundle, online=tmp_path / "short")


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
def server(bundle, tmp_path, request):
    port = free_port()
    words = ["serve", bundle, "--port", port, "--batch-size", 16, "--batch-timeout", 20, "--max-bytes", LIMIT]
    if getattr(request, "param", None) == "online":
        online_policy(bundle)[0].save(tmp_path / "state")
        words += ["--online", tmp_path / "state"]
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
    bodies = requests_of(PIXELS)
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


@pytest.mark.nightly
@pytest.mark.parametrize("server", ["online"], indirect=True)
def test_a_server_that_learns(server, bundle):
    online, record = online_policy(bundle)
    bodies = requests_of(PIXELS)
    with ThreadPoolExecutor(8) as pool:
        found = [json.loads(text) for _, text in pool.map(server.predict, bodies)]
    expected = online.decide(record)
    assert [each["exit"] for each in found] == (expected.exit + 1).tolist()
    body = json.dumps({"ids": [each["id"] for each in found], "labels": record.labels.tolist()}).encode()
    assert call(f"{server.url}/feedback", body) == (200, f'{{"learned":{N}}}')
    status, text = call(f"{server.url}/feedback", body)
    assert status == 422
    assert "has feedback twice" in json.loads(text)["detail"]
    assert call(f"{server.url}/feedback", b"{")[0] == 400
    state = Path(server.process.args[-1])
    end = time.monotonic() + 40
    online.feedback(record.index, record.labels)
    while not np.array_equal(Online.load(state).method.state["right"], online.method.state["right"]):
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.nightly
def test_a_worker_that_is_killed_under_load(server, bundle):
    bodies, wanted = requests_of(PIXELS) * 4, expected(bundle) * 4
    (worker,) = (each for each in psutil.Process(server.process.pid).children() if "spawn_main" in str(each.cmdline()))
    with ThreadPoolExecutor(32) as pool:
        running = [pool.submit(server.predict, body) for body in bodies]
        while sum(each.done() for each in running) < 50:
            time.sleep(0.01)
        worker.kill()
        found = [each.result() for each in running]
    for (status, text), answer in zip(found, wanted):
        if status == 200:
            assert_same(json.loads(text), answer)
        else:
            assert status >= 500
    assert sum(status == 200 for status, _ in found) > len(found) / 2
    assert server.predict(bodies[0])[0] == 200


# Ray Serve


TEXTS = ["", "A film.", "The film was long, and then it was longer.", "Good.", "word " * 30] * 8


def texts(folder):
    """Export a tiny encoder, and return its folder."""
    torch.manual_seed(2)
    config_of("Bert", vocab_size=30522, max_position_embeddings=40).save_pretrained(folder / "backbone")
    model = build_model(
        "encoder",
        classes=2,
        vocabulary=Vocabulary(30522, 0, 102, "minilm-l6", 24),
        backbone=str(folder / "backbone"),
        layers=2,
    ).eval()
    prepare = TextPreparation(tokenizer="minilm-l6", max_tokens=24, pad=0)
    return export_bundle(folder / "texts", model, make_policy("confidence"), 0.5, prepare)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Ray Serve with two CPUs, at a port of loopback. Return the address."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: it contains the paths of sockets
    port = free_port()
    values = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        # The default of 5 s is too short on a busy machine
        for name, value in (values | {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}).items():
            patch.setenv(name, value)
        import ray
        from ray import serve

        before = set(psutil.Process().children(recursive=True))
        started = []
        try:
            ray.init(
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=80 * MEBIBYTE,
                log_to_driver=False,
                _temp_dir=folder,
            )
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield f"http://127.0.0.1:{port}"
            started = set(psutil.Process().children(recursive=True)) - before
            serve.shutdown()
        finally:
            ray.shutdown()
            _, left = psutil.wait_procs(started, timeout=20)
            for each in left:
                each.kill()
            shutil.rmtree(folder, ignore_errors=True)
        assert left == []


def deployed(cluster, bundle, **options):
    """Deploy a bundle, and return the address for requests."""
    from ray import serve

    from offramp.runtime.cluster import Settings, application

    serve.run(application(Settings(bundle=bundle, cpus=0.1, batch_wait=0.02, **options)))
    assert call(f"{cluster}/health") == (200, '"ok"')
    return f"{cluster}/predict"


@pytest.mark.nightly
def test_stages_under_load(cluster, bundle):
    url, bodies, wanted = deployed(cluster, bundle, max_bytes=LIMIT), requests_of(PIXELS), expected(bundle)
    overflow = json.dumps({"input": np.full((1, 8, 8), 3e38).tolist()}).encode()
    bad = [*BAD, (overflow, 422, "logits must be finite")]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(partial(call, url), [*bodies, *(body for body, _, _ in bad)]))
    for (status, text), answer in zip(found, wanted):
        assert status == 200
        assert_same(json.loads(text), answer)
    for (status, text), (_, expected_status, message) in zip(found[N:], bad):
        assert status == expected_status
        assert re.search(message, json.loads(text)["detail"])
    assert {answer["exit"] for answer in wanted} == {1, 2}


def replicas_of(stage):
    """Return the processes of a deployment. Ray sets their command lines, which may end with the current task."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if "".join(each.cmdline()).startswith(f"ray::ServeReplica:default:{stage}")]


@pytest.mark.nightly
def test_a_replica_that_is_killed_under_load(cluster, bundle):
    url, bodies, wanted = deployed(cluster, bundle, replicas=2), requests_of(PIXELS) * 6, expected(bundle) * 6
    with ThreadPoolExecutor(32) as pool:
        running = [pool.submit(call, url, body) for body in bodies]
        for stage, share in (("stage-1", 0.2), ("stage-2", 0.4)):
            while sum(each.done() for each in running) < share * len(running):
                time.sleep(0.01)
            replicas = replicas_of(stage)
            assert len(replicas) == 2
            replicas[0].kill()
        assert not all(each.done() for each in running)
        found = [each.result() for each in running]
    answered = [json.loads(text) if status == 200 else None for status, text in found]
    for (status, _), answer, expected_answer in zip(found, answered, wanted):
        if answer is None:
            assert status >= 500
        else:
            assert_same(answer, expected_answer)
    assert answered.count(None) == 0  # the ingress asks another replica


@pytest.mark.nightly
@pytest.mark.parametrize(
    "options", [{}, {"ensemble": "geometric", "confidence": "ensemble", "temperatures": ((2.0,), (2.0, 1.0))}], ids=str
)
def test_a_cascade_of_deployments(cluster, options, tmp_path):
    torch.manual_seed(0)
    large = Staged([nn.Flatten(), nn.Linear(64, 32)], [nn.Linear(64, 4), nn.Linear(32, 4)])
    preparation = [ImagePreparation(shape=(1, 8, 8), divisor=16.0), GREY]
    combined = Combined(**options) if options else None
    folder = export(tmp_path / "b", Single(), large, preparation=preparation, combined=combined)
    url, wanted = deployed(cluster, folder, replicas=[2, 1, 1]), expected(folder)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(partial(call, url), requests_of(PIXELS)))
    for (status, text), answer in zip(found, wanted):
        assert status == 200
        assert_same(json.loads(text), answer)
    assert len({answer["exit"] for answer in wanted}) > 1


@pytest.mark.nightly
def test_texts_of_different_length_in_one_batch(cluster, tmp_path):
    folder = texts(tmp_path)
    bundle = load(folder)
    signals = bundle(bundle.prepare(TEXTS)).signal
    edited(folder, threshold=float(np.median(signals)))
    bundle = load(folder)
    wanted = [responses(bundle(bundle.prepare([text])), ())[0] for text in TEXTS]
    url = deployed(cluster, folder)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(partial(call, url), [json.dumps({"text": text}).encode() for text in TEXTS]))
    for (status, text), answer in zip(found, wanted):
        assert status == 200
        assert {"class", *json.loads(text)} == {"class", *answer}
        for key, value in json.loads(text).items():
            assert value == pytest.approx(answer[key], abs=1e-4)


@pytest.mark.parametrize("replicas", [0, [1], [1, 0], [1, 1, 1]])
def test_numbers_of_replicas_that_are_refused(bundle, replicas):
    from offramp.runtime.cluster import Settings, application

    with pytest.raises(ValueError, match="expected a number from 1, or 2, one for each stage"):
        application(Settings(bundle=bundle, replicas=replicas))
