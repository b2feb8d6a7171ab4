"""A bundle as a web server on one machine, with LitServe: requests that arrive together are computed together."""

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Annotated

import litserve
import numpy as np
from fastapi import Depends, HTTPException, Request
from litserve.loops.simple_loops import BatchedLoop
from litserve.server import RegularRequestHandler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import JSONResponse, Response

from offramp.datasets.preparing import TextPreparation
from offramp.online import Online
from offramp.runtime.bundle import Bundle, Prepared, load
from offramp.runtime.manifest import read_manifest
from offramp.runtime.messages import LARGEST, Feedback, Format, Refused, Sample, prepared, responses

PATH, FEEDBACK = "/predict", "/feedback"
TIMEOUT = 30  # seconds
POLL = 0.1  # seconds: the queue gives a request that comes later than this after the end of a worker to another one
SAVE = 10  # seconds between two files of the state of an online policy
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # upper ends of the latency histogram
COST, FULL = "offramp_cost", "offramp_full_cost"


class Metrics:
    """The metrics of one process. Prometheus' multiprocess mode adds those of all processes."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.exits = Counter("offramp_exits", "Answers by exit, from 1.", ["exit"], registry=registry)
        self.cost = Counter(COST, "Sum of the costs of all answers.", registry=registry)
        self.full = Counter(FULL, "Sum of what the full model costs for the same inputs.", registry=registry)
        self.requests = Counter("offramp_requests", "Requests by HTTP status.", ["status"], registry=registry)
        self.latency = Histogram(
            "offramp_latency_seconds",
            "Time from a request to its response, for requests that were answered.",
            buckets=SECONDS,
            registry=registry,
        )


class _Totals(MultiProcessCollector):
    """The metrics of all processes, and the share of the full model's cost."""

    def collect(self) -> Iterator:
        found = {metric.name: metric for metric in super().collect()}
        yield from found.values()
        cost, full = (sum(each.value for each in found[name].samples) if name in found else 0 for name in (COST, FULL))
        if full:
            yield GaugeMetricFamily("offramp_cost_share", "Share of the full model's cost.", value=cost / full)


class _Measuring:
    """Middleware that counts the requests by status, measures the latency, and limits it."""

    def __init__(self, app: Callable) -> None:
        self.app, self.metrics = app, Metrics()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["path"] not in (PATH, FEEDBACK):
            return await self.app(scope, receive, send)
        status, begin = 500, time.perf_counter()

        async def sent(message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            async with asyncio.timeout(TIMEOUT):
                await self.app(scope, receive, sent)
        except TimeoutError:  # the worker that had taken the request from the queue was killed
            await JSONResponse({"detail": f"no answer within {TIMEOUT} s"}, 504)(scope, receive, sent)
        finally:
            self.metrics.requests.labels(status).inc()
            if status == 200:
                self.metrics.latency.observe(time.perf_counter() - begin)


async def _sample(request: Request) -> Sample:
    """Read and check a request, before it is put in the queue."""
    try:
        return await request.app.state.format.receive(request)
    except Refused as error:
        raise HTTPException(error.status, str(error)) from None


async def _feedback(request: Request) -> Feedback:
    """Read and check feedback, before it is put in the queue."""
    try:
        return await request.app.state.format.receive_feedback(request)
    except Refused as error:
        raise HTTPException(error.status, str(error)) from None


class _Chained:
    """A queue, and its first item, which has been taken from it."""

    def __init__(self, first, queue) -> None:
        self.items, self.queue = [first], queue

    def get(self, timeout: float):
        return self.items.pop() if self.items else self.queue.get(timeout=timeout)

    def get_nowait(self):
        return self.items.pop() if self.items else self.queue.get_nowait()


class _Loop(BatchedLoop):
    """The loop of LitServe, except that it sleeps until a request arrives, and waits for others from then on."""

    def get_batch_requests(self, lit_api, request_queue, transport):
        lit_api.save_if_due()
        try:
            first = request_queue.get(timeout=POLL)
        except Empty:
            return [], []
        return super().get_batch_requests(lit_api, _Chained(first, request_queue), transport)


class _API(litserve.LitAPI):
    def __init__(self, bundle: str | os.PathLike, state: str | None, options: dict, **batching) -> None:
        super().__init__(api_path=PATH, loop=_Loop(), **batching)
        self.folder, self.state, self.options = bundle, state, options

    def setup(self, device: str) -> None:
        self.online = None if self.state is None else Online.load(self.state)
        self.saved_at, self.changed = time.monotonic(), False
        self.bundle, self.metrics = load(self.folder, online=self.online, **self.options), Metrics()
        if self.bundle.regroup == "measured":
            self.bundle.profile(_typical(self.bundle, self.max_batch_size))

    def decode_request(self, request: Annotated[object, Depends(_sample)]) -> Sample:
        return request

    def batch(self, inputs: list[Sample | Feedback]) -> list[Sample | Feedback]:
        return inputs

    def predict(self, x: list[Sample | Feedback]) -> list[dict | Refused]:
        learned = iter([self._learn(each) for each in x if isinstance(each, Feedback)])
        samples = [each for each in x if not isinstance(each, Feedback)]
        answered = iter(self._answers(samples) if samples else [])
        return [next(learned if isinstance(each, Feedback) else answered) for each in x]

    def _learn(self, feedback: Feedback) -> dict | Refused:
        try:
            self.online.feedback(feedback.ids, feedback.labels)
        except ValueError as error:
            return Refused(str(error))
        self.changed = True
        return {"learned": len(feedback.ids)}

    def save_if_due(self) -> None:
        """Save what the online policy has learned and remembers, `SAVE` seconds after the last time."""
        if self.online is not None and self.changed and time.monotonic() - self.saved_at >= SAVE:
            self.online.save(self.state)
            self.saved_at, self.changed = time.monotonic(), False

    def _answers(self, x: list[Sample]) -> list[dict | Refused]:
        # Random names: after a restart, no new sample may have the name of one whose label can still come
        ids = [] if self.online is None else [secrets.randbelow(LARGEST) for _ in x]
        try:
            inputs = prepared(self.bundle, x)
            answers, cost = self.bundle(inputs, ids or None), self.bundle.cost(inputs)
        except ValueError as error:  # for example, logits that are not finite
            if len(x) == 1:
                return [Refused(str(error))]
            return [found for sample in x for found in self._answers([sample])]
        self.changed = True
        for exit_, count in zip(*np.unique(answers.exit, return_counts=True)):
            self.metrics.exits.labels(exit_ + 1).inc(count)
        self.metrics.cost.inc(answers.cost.sum())
        self.metrics.full.inc(np.broadcast_to(cost[..., -1], len(x)).sum())
        return responses(answers, self.bundle.manifest.names, ids)

    def encode_response(self, output: dict | Refused):
        if isinstance(output, Refused):  # raised, it would be the response to the whole batch
            return JSONResponse({"detail": str(output)}, output.status)
        return output


def _typical(bundle: Bundle, size: int) -> Prepared:
    """Return a batch with which times are measured."""
    prepare = bundle.preparations[0]
    if isinstance(prepare, TextPreparation):
        return bundle.prepare([("the " * prepare.max_tokens,) * len(prepare.columns)] * size)
    return bundle.prepare(np.zeros((size, *prepare.shape), np.uint8))


def serve(
    bundle: str | os.PathLike,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 16,
    batch_timeout: float = 0.005,
    threads: int = 1,
    workers: int = 1,
    max_bytes: int | None = None,
    regroup: str | int = "always",
    online: str | os.PathLike | None = None,
) -> None:
    """Serve a bundle over HTTP until the process receives SIGINT or SIGTERM.

    Parameters
    ----------
    bundle : path
        A folder that `offramp export` wrote.
    host : {"127.0.0.1", "0.0.0.0", "::"}
    port : int
    batch_size : int
        Maximum number of requests that are computed together.
    batch_timeout : float
        Seconds that the first request of a batch waits for others.
    threads : int
        Number of CPU threads of each worker.
    workers : int
        Number of processes that compute.
    max_bytes : int, optional
        Maximum size of a request. Default: 1 MiB, or what the input of the model needs.
    regroup : {"always", "never", "measured"} or int
        As for `EarlyExit`.
    online : path, optional
        File that `Online.save` wrote. This policy decides instead of that of the bundle, learns from feedback, and is
        saved to the same file. It needs a single worker.

    Raises
    ------
    ValueError
        If the folder is not a bundle, or if the online policy does not suit it or the number of workers.

    Notes
    -----
    `PROMETHEUS_MULTIPROC_DIR` must name an empty folder before this module is imported, as `offramp serve` does it.
    """
    manifest = read_manifest(bundle)
    form = Format.of(manifest, max_bytes)
    if online is not None:
        if workers > 1:
            raise ValueError(f"{workers} workers, which would learn apart; expected 1 with an online policy")
        Bundle(manifest, Online.load(online), (), bundle)  # raises its errors here
    api = _API(
        os.fspath(bundle),
        None if online is None else os.fspath(online),
        {"threads": threads, "regroup": regroup},
        max_batch_size=batch_size,
        batch_timeout=batch_timeout,
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=workers,
        timeout=TIMEOUT,
        middlewares=[_Measuring],
        disable_openapi_url=True,
        restart_workers=True,
    )
    server.app.state.format = form
    if online is not None:  # through the queue of the samples, to the worker that remembers them
        handler = RegularRequestHandler(api, server)

        async def learn(feedback: Annotated[object, Depends(_feedback)]):
            return await handler.handle_request(feedback, object)

        server.app.add_api_route(FEEDBACK, learn, methods=["POST"], response_model=None)
    registry = CollectorRegistry()
    _Totals(registry)
    server.app.add_route(
        "/metrics", lambda request: Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
    )
    main = os.getpid()

    def stop(*_) -> None:
        if os.getpid() == main:
            raise KeyboardInterrupt  # on which LitServe ends all processes, as it does not on SIGTERM
        sys.exit()

    signal.signal(signal.SIGTERM, stop)
    server.run(host=host, port=port, log_level="warning", generate_client_file=False)
