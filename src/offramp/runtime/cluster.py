"""A bundle on many machines, with Ray Serve: each stage is a deployment with its own replicas and batches."""

import asyncio
from collections import defaultdict
from pathlib import Path

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter

from offramp.datasets.preparing import TextPreparation
from offramp.runtime.bundle import Bundle, Prepared, load_policy, open_session
from offramp.runtime.loop import Decisions
from offramp.runtime.manifest import read_manifest
from offramp.runtime.messages import Format, Refused, prepared, responses

TRIES = 7  # of one stage, with pauses that double from PAUSE on: 12.6 s in all
PAUSE = 0.2  # seconds
TOKENS = 16  # texts are padded to multiples of this, so that more of them have the same shape
State = list[np.ndarray]  # (1, …) each: of one sample


class Settings(BaseModel):
    """The settings of `application`.

    Parameters
    ----------
    bundle : path
        A folder that `offramp export` wrote, readable under this path on all machines.
    batch_size : int
        Maximum number of samples that a replica of a stage computes together.
    batch_wait : float
        Seconds that the first sample of a batch waits for others.
    replicas : int or list of int
        Number of replicas of each stage, or one number per stage. Later stages have fewer samples.
    ingresses : int
        Number of replicas that receive requests.
    threads : int
        Number of CPU threads of each replica of a stage.
    cpus : float
        Number of CPUs that Ray reserves for each replica.
    max_bytes : int, optional
        Maximum size of a request. Default: 1 MiB, or what the input of the model needs.
    """

    model_config = ConfigDict(extra="forbid")

    bundle: Path
    batch_size: int = Field(16, ge=1)
    batch_wait: float = Field(0.005, ge=0)
    replicas: int | list[int] = 1
    ingresses: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    cpus: float = Field(1.0, ge=0)
    max_bytes: int | None = Field(None, ge=1)


class _Stage:
    """One stage of a bundle, which computes samples of different requests together."""

    def __init__(self, settings: Settings, exit_: int) -> None:
        self.stage = read_manifest(settings.bundle).stages[exit_]
        self.session = open_session(settings.bundle / self.stage.file, settings.threads)
        self.compute.set_max_batch_size(settings.batch_size)
        self.compute.set_batch_wait_timeout_s(settings.batch_wait)

    @serve.batch
    async def compute(self, states: list[State]) -> list[State]:
        """Return all outputs of the stage, (1, …) each, for every sample. Samples of equal shape are one batch."""
        groups = defaultdict(list)
        for place, state in enumerate(states):
            groups[tuple(array.shape for array in state)].append(place)
        found: list[State] = [[]] * len(states)
        for places in groups.values():
            batch = [np.concatenate(arrays) for arrays in zip(*(states[place] for place in places))]
            outputs = self.session.run(self.stage.outputs, dict(zip(self.stage.inputs, batch)))
            for row, place in enumerate(places):
                found[place] = [array[row : row + 1] for array in outputs]
        return found


def _padded(bundle: Bundle, x: Prepared) -> Prepared:
    """Pad texts to a multiple of `TOKENS`. The first stage makes the mask of the padding from the token ids."""
    arrays = []
    for prepare, array in zip(bundle.preparations, x.arrays):
        if isinstance(prepare, TextPreparation):
            length = min(-(-array.shape[1] // TOKENS) * TOKENS, max(prepare.max_tokens, array.shape[1]))
            array = np.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=prepare.pad)
        arrays.append(array)
    return Prepared(tuple(arrays))


api = FastAPI(openapi_url=None)


@serve.ingress(api)
class _Ingress:
    """Receives requests, and passes each of them from stage to stage until its policy stops it."""

    def __init__(self, settings: Settings, stages: list[DeploymentHandle]) -> None:
        manifest = read_manifest(settings.bundle)
        policy = load_policy(settings.bundle, manifest)
        self.bundle = Bundle(manifest, policy, (), settings.bundle, manifest.threshold)
        self.format, self.stages = Format.of(manifest, settings.max_bytes), stages
        self.exits = Counter("offramp_exits", "Answers by exit, from 1.", tag_keys=("exit",))
        self.cost = Counter("offramp_cost", "Sum of the costs of all answers.")
        self.full = Counter("offramp_full_cost", "Sum of what the full model costs for the same inputs.")

    @api.get("/health")
    async def health(self) -> str:
        return "ok"

    @api.post("/predict")
    async def predict(self, request: Request) -> dict:
        try:
            sample = await self.format.receive(request)
            return await self._answer(_padded(self.bundle, prepared(self.bundle, [sample])))
        except Refused as error:
            raise HTTPException(error.status, str(error)) from None
        except ValueError as error:  # for example, logits that are not finite
            raise HTTPException(422, str(error)) from None

    async def _answer(self, x: Prepared) -> dict:
        bundle = self.bundle
        decisions = Decisions(bundle, 1)
        state: State = []
        for i, (k, stage) in enumerate(bundle.places):
            # The first stage of each model of a cascade reads the input of the model
            logits, *state = await self._compute(i, state or [x.arrays[k]])
            similarity = state.pop(0) if stage.similarity else None
            if not len(decisions.step(logits, similarity)):
                break
        cost = bundle.cost(x)  # (L,) or (1, L)
        answers = decisions.answers(cost)
        self.exits.inc(1, {"exit": str(answers.exit[0] + 1)})
        self.cost.inc(float(answers.cost[0]))
        self.full.inc(float(cost.flat[-1]))
        return responses(answers, bundle.manifest.names)[0]

    async def _compute(self, exit_: int, state: State) -> State:
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                return await self.stages[exit_].compute.remote(state)
            except RayActorError:
                continue  # the replica has died: a stage has no memory, so another one can compute it again
        raise HTTPException(503, f"stage {exit_ + 1} is not available")


def application(settings: Settings) -> serve.Application:
    """Return a bundle as an application of Ray Serve, for `serve.run` and for the command `serve run`.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    Application

    Raises
    ------
    ValueError
        If the folder is not a bundle, or if the number of replicas does not fit its stages.

    Examples
    --------
    >>> from ray import serve
    >>> from offramp.runtime.cluster import Settings, application
    >>> serve.run(application(Settings(bundle="/shared/bundle", replicas=[2, 1, 1])))  # doctest: +SKIP
    """
    exits = len(read_manifest(settings.bundle).stages)
    replicas = [settings.replicas] * exits if isinstance(settings.replicas, int) else settings.replicas
    if len(replicas) != exits or min(replicas) < 1:
        raise ValueError(f"replicas is {settings.replicas}; expected a number from 1, or {exits}, one for each stage")
    reserved = {"num_cpus": settings.cpus}
    stages = [
        serve.deployment(
            name=f"stage-{i + 1}",
            num_replicas=count,
            max_ongoing_requests=2 * settings.batch_size,  # the next batch is collected while one is computed
            ray_actor_options=reserved,
        )(_Stage).bind(settings, i)
        for i, count in enumerate(replicas)
    ]
    ingress = serve.deployment(
        name="ingress", num_replicas=settings.ingresses, max_ongoing_requests=256, ray_actor_options=reserved
    )(_Ingress)
    return ingress.bind(settings, stages)
