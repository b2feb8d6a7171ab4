"""Models that stop: their answers are those of the record, and what has left is not computed."""

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from torch import nn

from offramp import ExitRecord, NotFittedError, cascade, decide, make_policy
from offramp.cascades.settings import CascadeSettings
from offramp.models.base import ExitOutput, MultiExitModel
from offramp.models.costs import exit_costs
from offramp.models.wrapping import Staged
from offramp.online import Online
from offramp.runtime import EarlyExit
from offramp.runtime.regrouping import Times, measured_sizes, regrouping
from test_models import DIGITS, STAGED, blocks_of, small
from test_policies import EVERY

torch.set_num_threads(1)

SAMPLES = 24
# The kernels of another batch size or text length round differently. Signals that differ by less than this from the
# threshold may lead to another exit
TOLERANCE = 2e-5
STREAMED = [(name, options) for name, options in EVERY if name not in ("oracle", "random")]


def inputs_of(model, n=SAMPLES):
    """Images, or padded texts of several lengths."""
    chance = torch.Generator().manual_seed(1)
    if not hasattr(model, "pad"):
        return torch.randn(n, *DIGITS, generator=chance)
    ids = torch.randint(200, 30000, (n, 9), generator=chance)
    for sample, length in enumerate(torch.randint(3, 10, (n,), generator=chance)):
        ids[sample, length:] = model.pad
    return ids


def record_of(model, x) -> ExitRecord:
    """The record of a model, each text at its own length, with labels of which some are those of the last exit."""
    with torch.inference_mode():
        outputs = list(model.outputs(x))
    logits = torch.stack([output.logits for output in outputs], dim=1).numpy()  # (N, L, C)
    similarity = None
    if outputs[0].similarity is not None:
        similarity = torch.stack([output.similarity for output in outputs], dim=1).numpy()  # (N, L)
    lengths = model.lengths(x)
    shapes = [tuple(x.shape[1:])] if lengths is None else [(int(length),) for length in lengths]
    cost = np.stack([exit_costs(model, shape).macs for shape in shapes])  # (1, L) or (N, L)
    labels = np.where(np.arange(len(x)) % 3, logits[:, -1].argmax(1), 0)
    return ExitRecord(logits, labels, cost[0] if len(cost) == 1 else cost, similarity=similarity)


@pytest.fixture(scope="module", params=STAGED)
def system(request):
    """A model with very different logits, inputs, and their record."""
    torch.manual_seed(0)
    model = small(request.param).eval()
    with torch.no_grad():
        for head in model.heads:
            (head if isinstance(head, nn.Linear) else head[-1]).weight.mul_(20)
    x = inputs_of(model, 3 * SAMPLES)
    validation = record_of(model, x[SAMPLES:])  # a map that is fitted on a sample has a step there
    return model, x[:SAMPLES], record_of(model, x[:SAMPLES]), validation


@pytest.fixture(scope="module")
def fast(system):
    """Whose policy and threshold are replaced: it knows the costs already."""
    return EarlyExit(system[0], make_policy("confidence"), 0.5)


def thresholds_of(policy, record):
    """Thresholds between the values of the signal, the ends, and one per exit."""
    finite = np.unique(np.round(policy.signal(record)[:, :-1], 5))
    finite = finite[np.isfinite(finite)]
    middle = (finite[1:] + finite[:-1]) / 2 if len(finite) > 1 else np.append(finite, 0.0)[:1] - 0.5
    return [*np.quantile(middle, [0.3, 0.8]), -np.inf, np.inf, np.quantile(middle, [0.7, 0.4])]


def check(answers, policy, record, threshold, rows=slice(None), tolerance=TOLERANCE):
    """The answers are those of the record, except where the signal is as good as equal to the threshold."""
    signal, (exits,), (predicted,) = policy.signal(record), *decide(policy, record, [threshold])
    signal, exits, predicted = signal[rows], exits[rows], predicted[rows]
    deltas = np.broadcast_to(threshold, record.n_exits - 1)
    with np.errstate(invalid="ignore"):
        unsure = (np.abs(signal[:, :-1] - deltas) < tolerance).any(axis=1)  # (B,)
    sure = np.flatnonzero(~unsure)
    assert unsure.sum() < max(2, 0.3 * len(exits))
    np.testing.assert_array_equal(answers.exit[sure], exits[sure])
    np.testing.assert_array_equal(answers.prediction[sure], predicted[sure])
    at = np.arange(len(exits))[sure], exits[sure]
    np.testing.assert_allclose(answers.signal[sure], signal[at], atol=tolerance)
    np.testing.assert_allclose(answers.confidence[sure], record.confidence("max_softmax")[rows][at], atol=tolerance)
    cost = np.broadcast_to(record.cost if record.sample_cost is None else record.sample_cost, record.prediction.shape)
    np.testing.assert_array_equal(answers.cost[sure], cost[rows][at])


@pytest.mark.parametrize(("name", "options"), STREAMED)
def test_answers_are_those_of_the_record(system, fast, name, options):
    _, x, record, validation = system
    try:
        policy = make_policy(name, **options).fit(validation)
        policy.signal(record)
    except ValueError:
        assert name == "hidden-similarity"  # of models whose layers differ in width
        return
    fast.policy = policy
    for threshold, regroup in zip(thresholds_of(policy, record), cycle(["always", "never", 5])):
        fast.threshold, fast.regroup = np.asarray(threshold), regroup
        check(fast(x), policy, record, threshold)


@pytest.mark.parametrize(
    ("name", "options"), [("confidence", {}), ("patience", {}), ("pcee", {"bins": 5, "no_exit": "most_confident"})]
)
def test_rejected_answers_are_those_of_the_record(system, name, options):
    model, x, record, validation = system
    policy = make_policy(name, **options).fit(validation)
    shares = []
    for threshold in thresholds_of(policy, record):
        estimates = policy.estimate(record)  # (N, L)
        values = np.unique(estimates[np.arange(SAMPLES), policy.exits(record, threshold)].round(5))
        reject_below = values[len(values) // 2 - 1 :][:2].mean()  # between two estimates, or the only one
        values = np.unique(estimates[:, :-1].round(5))
        abstain_below = values[len(values) // 4 :][:2].mean()
        below = {"reject_below": reject_below, "abstain_below": abstain_below}
        fast = EarlyExit(model, policy, threshold, cost=record.cost, **below)
        (exits,), (expected,) = decide(policy, record, [threshold], **below)
        answers = fast(x)
        same = answers.exit == exits  # all but those whose signal is as good as equal to the threshold
        assert same.mean() > 0.7
        near = (np.abs(estimates[..., None] - [*below.values()]) < TOLERANCE).any(axis=(1, 2))
        np.testing.assert_array_equal(answers.prediction[same & ~near], expected[same & ~near])
        shares.append((expected == -1)[same & ~near].mean() if (same & ~near).any() else 0)
    assert name == "pcee" or any(0 < share < 1 for share in shares)  # whose estimates may all be equal


@pytest.mark.parametrize("size", [1, 7])
def test_batches_and_their_order_do_not_matter(system, size):
    model, x, record, _ = system
    policy = make_policy("confidence")
    threshold = thresholds_of(policy, record)[1]
    fast = EarlyExit(model, policy, threshold)
    order = np.random.default_rng(0).permutation(SAMPLES)
    for rows in np.split(order, range(size, SAMPLES, size)):
        check(fast(x[rows]), policy, record, threshold, rows)


def test_the_logits_are_those_of_the_exit(system):
    model, x, record, _ = system
    answers = EarlyExit(model, make_policy("confidence"), 0.5)(x)
    np.testing.assert_allclose(answers.logits, record.logits[np.arange(SAMPLES), answers.exit], atol=1e-3)


def shapes_that_ran(model, fast, x):
    """The first two dimensions of the input of each block that ran."""
    ran = []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, given, i=i: ran.append(
                (i, tuple((given[0][0] if isinstance(given[0], list) else given[0]).shape))
            )
        )
        for i, block in enumerate(blocks_of(model))
    ]
    answers = fast(x)
    for hook in hooks:
        hook.remove()
    return answers, ran


def test_what_has_left_is_not_computed(system):
    model, x, record, _ = system
    policy = make_policy("confidence")
    threshold = np.quantile(policy.signal(record)[:, 0], 0.5)
    fast = EarlyExit(model, policy, threshold, regroup="always")
    fast(x)  # counts the costs
    answers, ran = shapes_that_ran(model, fast, x)
    reached = [int((answers.exit >= i).sum()) for i in range(answers.exit.max() + 1)]
    assert [shape[0] for _, shape in ran] == reached
    assert reached[1] < SAMPLES
    if hasattr(model, "pad"):  # texts are cut to the longest one that is left
        lengths = model.lengths(x).numpy()
        assert [shape[1] for _, shape in ran] == [lengths[answers.exit >= i].max() for i in range(len(ran))]
    fast.threshold = np.array(-np.inf)
    assert [i for i, _ in shapes_that_ran(model, fast, x)[1]] == [0]  # no later stage
    fast.threshold, fast.regroup = np.array(threshold), "never"
    assert {shape[0] for _, shape in shapes_that_ran(model, fast, x)[1]} == {SAMPLES}


def test_an_online_policy_decides_as_on_the_record(system):
    model, x, _, validation = system
    policy = make_policy("pcee", bins=5).fit(validation)
    threshold = thresholds_of(policy, validation)[0]
    over, running = (Online(policy, threshold, validation, "window", size=20, audit=0.3) for _ in range(2))
    fast = EarlyExit(model, running, regroup="never")
    for ids in np.split(np.arange(SAMPLES), 4):
        record = record_of(model, x[ids])  # the kernels of another batch size would round differently
        expected, answers = over.decide(record, ids), fast(x[ids], ids)
        for name in ("prediction", "exit", "signal", "cost"):
            np.testing.assert_array_equal(getattr(answers, name), getattr(expected, name))
        np.testing.assert_array_equal(answers.logits, record.logits[np.arange(len(ids)), answers.exit])
        for online in (over, running):
            online.feedback(ids, record.labels)


# Models of users


class OnlyExits(MultiExitModel):
    """Defines the generator only, and ignores which samples stay."""

    n_exits = 3

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(64, 10) for _ in range(3))
        self.seen = []

    def exits(self, x):
        x = x.flatten(1)
        for layer, head in zip(self.layers, self.heads):
            x = layer(x).relu()
            self.seen.append(len(x))
            yield 20 * head(x)


class Receives(OnlyExits):
    """Uses which samples stay."""

    def exits(self, x):
        x = x.flatten(1)
        for layer, head in zip(self.layers, self.heads):
            x = layer(x).relu()
            self.seen.append(len(x))
            rows = yield 20 * head(x)
            x = x if rows is None else x[rows]


@pytest.mark.parametrize(("kind", "shrinks"), [(OnlyExits, False), (Receives, True)])
def test_models_that_define_exits_only(kind, shrinks):
    torch.manual_seed(0)
    model = kind().eval()
    x = inputs_of(model)
    record, policy = record_of(model, x), make_policy("confidence")
    threshold = thresholds_of(policy, record)[0]
    fast = EarlyExit(model, policy, threshold, regroup="always")
    fast(x)
    model.seen.clear()
    answers = fast(x)
    check(answers, policy, record, threshold)
    reached = [int((answers.exit >= i).sum()) for i in range(answers.exit.max() + 1)]
    assert reached[2] < SAMPLES
    assert model.seen == (reached if shrinks else [SAMPLES] * len(reached))


def test_a_network_that_was_not_written_for_this():
    torch.manual_seed(0)
    stages = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Conv2d(4, 6, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(6, 8, 3))
    )
    heads = [nn.Sequential(nn.Flatten(), nn.Linear(n, 10)) for n in (4 * 36, 6 * 16, 8 * 4)]
    model = Staged(stages, heads).eval()
    x = inputs_of(model)
    record, policy = record_of(model, x), make_policy("confidence")
    check(EarlyExit(model, policy, 0.13)(x), policy, record, 0.13)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(record.logits[:, -1]), heads[2](stages(x)))
    with pytest.raises(ValueError, match="3 stages and 2 heads; expected one head for each stage"):
        Staged(stages, heads[:2])


# Cascades


class Shrink(nn.Module):
    def forward(self, x):
        return x[:, :, ::2, ::2]


ENSEMBLES = [
    {},
    {"ensemble": "mean_probability"},
    {"ensemble": "geometric", "confidence": "ensemble"},
    {"ensemble": "accuracy_weighted", "confidence": "ensemble"},
    {"temperatures": "fit"},
    {"ensemble": "mean_logit", "temperatures": "fit"},
]


@pytest.mark.parametrize("options", ENSEMBLES)
def test_a_cascade_answers_as_its_record(options):
    torch.manual_seed(0)
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))  # a plain module, on smaller images
    network = small("msdnet")
    with torch.no_grad():
        tiny[1].weight.mul_(10)
        for head in network.heads:
            head[-1].weight.mul_(10)
    last = nn.Sequential(nn.Flatten(), nn.Linear(64, 500), nn.ReLU(), nn.Linear(500, 10))
    models = [tiny, network, last]
    x = inputs_of(network)
    prepared = [Shrink()(x), x, x]
    alone = [model if isinstance(model, MultiExitModel) else Staged([nn.Identity()], [model]) for model in models]
    records = [record_of(model.eval(), given) for model, given in zip(alone, prepared)]
    labels = records[-1].labels
    records = [
        ExitRecord(record.logits, labels, record.cost * 10**k, metadata={"system": str(k)})
        for k, record in enumerate(records)
    ]
    whole = cascade(records, **options)
    policy = make_policy("confidence")
    made = {key: whole.metadata[key] for key in ("weights", "temperatures") if key in whole.metadata}
    fast = EarlyExit.cascade(
        models, policy, 0.5, preparations=[Shrink(), None, None], cost=whole.cost, **{**options, **made}
    )
    for threshold in [*thresholds_of(policy, whole)[:2], np.array([0.9, 0.5, 0.7, 0.6])]:
        for regroup in ("always", "never"):
            fast.threshold, fast.regroup = np.asarray(threshold), regroup
            check(fast(x), policy, whole, threshold)
    settings = replace(CascadeSettings.of(whole), thresholds=(0.9, 0.5, 0.7, 0.6), measure="margin")
    chosen = EarlyExit.cascade(models, **settings.options, preparations=[Shrink(), None, None], cost=whole.cost)
    check(chosen(x), settings.policy, whole, np.array(settings.thresholds))


def test_what_a_cascade_refuses():
    policy = make_policy("confidence")
    with pytest.raises(ValueError, match="a OnlyExits, defines exits only"):
        EarlyExit.cascade([OnlyExits()], policy, 0.5)
    with pytest.raises(ValueError, match="1 models and 2 preparations"):
        EarlyExit.cascade([nn.Linear(2, 2)], policy, 0.5, preparations=[None, None])
    with pytest.raises(ValueError, match="'accuracy_weighted' needs weights"):
        EarlyExit.cascade([nn.Linear(2, 2)], policy, 0.5, ensemble="accuracy_weighted")
    with pytest.raises(ValueError, match="2 temperatures; expected 1, one for each exit"):
        EarlyExit.cascade([nn.Linear(2, 2)], policy, 0.5, temperatures=[[1.0, 2.0]])


# When samples are removed


def test_the_table_decides():
    times = Times(
        sizes=np.array([1, 2, 4]),
        stages=np.array([[1.0, 1, 1], [2, 3, 5], [1, 2, 6]]),  # (L, S)
        removal=np.array([[3.0, 3, 3], [0.5, 1, 1], [0, 0, 0]]),
    )
    assert times.later(0, 2) == 5
    assert times.later(0, 3) == 8  # between 5 and 11
    assert times.pays(0, 4, 2)  # 3 + 5 < 11
    assert not times.pays(0, 4, 3)  # 3 + 8 = 11
    assert not times.pays(0, 2, 1)  # 3 + 3 > 5
    assert times.pays(1, 2, 1)  # 0.5 + 1 < 2
    decide_ = regrouping("measured", times)
    assert (decide_(0, 4, 2), decide_(0, 2, 1)) == (True, False)


def test_measured_sizes_reach_the_largest():
    assert measured_sizes(1).tolist() == [1]
    assert measured_sizes(13).tolist() == [1, 2, 3, 4, 6, 8, 12, 13]


def test_a_profile_is_used(system):
    model, x, record, _ = system
    policy = make_policy("confidence")
    threshold = thresholds_of(policy, record)[0]
    fast = EarlyExit(model, policy, threshold)
    times = fast.profile(x)
    assert times.stages.shape == times.removal.shape == (3, len(times.sizes))
    assert times.sizes[-1] == SAMPLES
    assert (times.stages > 0).all()
    check(fast(x), policy, record, threshold)
    never = np.zeros_like(times.stages)
    fast.times = Times(times.sizes, never, never + 1)  # a removal costs more than all later stages
    _, ran = shapes_that_ran(model, fast, x)
    assert {shape[0] for _, shape in ran} == {SAMPLES}


# What is refused


def test_what_cannot_run_is_refused(system):
    model, x, *_ = system
    confidence = make_policy("confidence")
    for policy, options, message in [
        (make_policy("oracle"), {}, "oracle"),
        (confidence, {"threshold": np.nan}, "none NaN"),
        (confidence, {"threshold": [0.5]}, "expected a number or 2 of them"),
        (confidence, {"regroup": "often"}, "regroup is 'often'; expected 'measured', 'always', 'never' or a number"),
        (confidence, {"regroup": 0}, "regroup is 0"),
        (confidence, {"cost": [1, 2]}, "cost: expected 3 numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            EarlyExit(model, policy, **{"threshold": 0.5, **options})
    with pytest.raises(NotFittedError):
        EarlyExit(model, make_policy("pcee"), 0.5)
    with pytest.raises(ValueError, match="at least one sample"):
        EarlyExit(model, confidence, 0.5)(x[:0])


def test_inputs_that_make_no_sense_are_told():
    model = small("msdnet")
    x = inputs_of(model)
    x[3, 0, 2, 2] = np.nan
    with pytest.raises(ValueError, match=r"logits.*nan: logits must be finite"):
        EarlyExit(model, make_policy("confidence"), 0.5)(x)


def test_a_stage_is_needed_to_run_one():
    with pytest.raises(NotImplementedError, match="OnlyExits defines exits, not stage"):
        OnlyExits().stage(0, torch.zeros(1, 1, 8, 8))
    assert ExitOutput(torch.zeros(1, 2)).state == ()
