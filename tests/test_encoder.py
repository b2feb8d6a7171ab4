import copy
import logging
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import AutoModel

from offramp.datasets.base import Vocabulary
from offramp.datasets.pretrained import source_of
from offramp.models import build_model
from offramp.models.costs import exit_costs
from offramp.training.checkpoints import fingerprint, load_weights, save_weights

torch.set_num_threads(1)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,  # large enough for untrained layers to have an effect
}
FAMILIES = {
    "Bert": {},
    "Roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "XLMRoberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "Camembert": {"pad_token_id": 1, "type_vocab_size": 1},
    "Electra": {"embedding_size": 6},
    "Albert": {"embedding_size": 6, "num_hidden_groups": 2},
}
SEPARATOR = 3
# Two pairs of sentences and a single text, with token types; -1 is padding
TEXTS = torch.tensor([[2, 9, 8, 3, 7, 7, 3], [2, 3, 30, 3, -1, -1, -1], [2, 11, 12, 13, 3, -1, -1]])
TYPES = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])


def config_of(family, **changes):
    return getattr(transformers, f"{family}Config")(**(SIZES | FAMILIES[family] | changes))


def words(config, folder, **changes):
    return replace(Vocabulary(config.vocab_size, config.pad_token_id, SEPARATOR, str(folder), 16), **changes)


def encoder(folder, config, **options):
    return build_model("encoder", classes=3, vocabulary=words(config, folder), backbone=str(folder), **options)


def texts(model):
    return TEXTS.where(TEXTS >= 0, model.pad)


def saved(folder, family="Bert", **changes):
    """Save a small transformers backbone with random weights in the folder."""
    torch.manual_seed(7)
    backbone = AutoModel.from_config(config_of(family, **changes)).eval()
    backbone.save_pretrained(folder)
    return backbone


@pytest.fixture
def bert(tmp_path):
    config = config_of("Bert")
    config.save_pretrained(tmp_path)
    torch.manual_seed(0)
    return encoder(tmp_path, config)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_backbones(family, tmp_path):
    backbone = saved(tmp_path, family)
    model = encoder(tmp_path, backbone.config, pretrained=True).eval()
    x = texts(model)
    types = TYPES if backbone.config.type_vocab_size > 1 else None
    whole = backbone(x, attention_mask=(TEXTS >= 0).long(), token_type_ids=types, output_hidden_states=True)
    states = list(model.states(x))
    torch.testing.assert_close(states[-1], whole.last_hidden_state[:, 0])
    torch.testing.assert_close(states[1:], [hidden[:, 0] for hidden in whole.hidden_states[1:]])
    torch.testing.assert_close(next(model.states(x)), model.backbone["project"](model.backbone["embeddings"](x))[:, 0])
    if family != "Electra":  # the only family without a pooler
        expected = model.heads[-1](whole.pooler_output)
        torch.testing.assert_close(model(x)[:, -1], expected)
    assert exit_costs(model, (5,)).parameters[-1] == sum(p.numel() for p in model.parameters())


def test_token_types_and_states_are_minilms():
    tokenizer = transformers.AutoTokenizer.from_pretrained(source_of("minilm-l6"))
    first = ["Is it good?", "", "A man plays."]
    second = ["Yes, it is rather good, I think.", "Nothing", ""]
    x = tokenizer(first, second, padding=True, return_tensors="pt")
    vocabulary = Vocabulary(len(tokenizer), tokenizer.pad_token_id, tokenizer.sep_token_id, "minilm-l6", 128)
    model = build_model("encoder", classes=2, vocabulary=vocabulary, pretrained=True).eval()
    assert x["token_type_ids"].any()
    assert torch.equal(model.token_types(x["input_ids"]), x["token_type_ids"])
    alone = tokenizer(first, padding=True, return_tensors="pt")
    assert torch.equal(model.token_types(alone["input_ids"]), alone["token_type_ids"])
    backbone = AutoModel.from_pretrained(source_of("minilm-l6")).eval()
    with torch.inference_mode():
        *_, last = model.states(x["input_ids"])
        whole = backbone(**x)
        torch.testing.assert_close(last, whole.last_hidden_state[:, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.pooler(last).tanh(), whole.pooler_output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family, pooling, tmp_path):
    backbone = saved(tmp_path, family)
    model = encoder(tmp_path, backbone.config, pooling=pooling).eval()
    x = texts(model)
    padded = torch.nn.functional.pad(x, (0, 9), value=model.pad)
    logits = model(x)
    torch.testing.assert_close(model(padded), logits)
    for row, expected in zip(x, logits):
        torch.testing.assert_close(model(row[None, row != model.pad])[0], expected)
    x[0, 1] += 1
    assert not torch.allclose(model(x)[0], logits[0])  # tokens that are not padding have an effect


@pytest.mark.parametrize("family", ["Bert", "Albert"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_first_layers_are_those_of_the_whole(family, layers, tmp_path):
    backbone = saved(tmp_path, family)
    whole = encoder(tmp_path, backbone.config, pretrained=True).eval()
    model = encoder(tmp_path, backbone.config, pretrained=True, layers=layers).eval()
    assert model.n_exits == len(model.heads) == layers
    x = texts(model)
    torch.testing.assert_close(list(model.states(x)), list(whole.states(x))[: layers + 1], rtol=0, atol=0)
    assert exit_costs(model, (5,)).macs.tolist() == exit_costs(whole, (5,)).macs[:layers].tolist()
    assert exit_costs(model, (5,)).parameters[-1] == sum(p.numel() for p in model.parameters())


def test_shared_layers_are_kept_once(tmp_path):
    config = config_of("Albert")
    config.save_pretrained(tmp_path)
    model = encoder(tmp_path, config)
    pointers = [weight.data_ptr() for weight in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers)
    head = sum(p.numel() for p in model.heads[0].parameters())
    steps = exit_costs(model, (5,)).parameters
    assert steps[1] - steps[0] == steps[3] - steps[2] == head  # two layers per group
    assert steps[2] - steps[1] > head
    fingerprint(model, {})
    save_weights(tmp_path / "weights", model, {"seed": 0})
    other = encoder(tmp_path, config)
    load_weights(tmp_path / "weights", other)
    x = texts(model)
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_exits_start_untrained_and_share_the_pooler(bert):
    state = torch.randn(500, 16)
    bert.eval()
    for i, head in enumerate(bert.heads):
        assert head.bias.eq(0).all()
        torch.testing.assert_close(bert.head(i, state), bert.pooler(state).tanh() @ head.weight.T)
    weights = torch.cat([head.weight.flatten() for head in bert.heads])
    assert 0.2 < weights.std() < 0.4
    assert len(weights.unique()) == len(weights)


def test_dropout_is_before_the_exits_own_layer(bert, tmp_path):
    model = encoder(tmp_path, config_of("Bert"), dropout=0.75)
    with torch.no_grad():
        model.pooler.weight.zero_()
        model.pooler.bias.fill_(20)  # tanh makes it 1
        model.heads[0].weight.zero_()
        model.heads[0].weight[:, 0] = 1
    drawn = model.head(0, torch.zeros(2000, 16))
    assert set(drawn.unique().tolist()) == {0, 4}
    assert 0.7 < drawn[:, 0].eq(0).float().mean() < 0.8
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert model.eval().head(0, torch.zeros(3, 16)).eq(1).all()


def test_the_seed_decides_the_new_weights(tmp_path):
    config = config_of("Bert")
    config.save_pretrained(tmp_path)  # without weights, which are not read

    def weights(seed, **options):
        torch.manual_seed(seed)
        return encoder(tmp_path, config, **options).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    new = [name for name in first if name.endswith("dense.weight") or name.startswith("heads.0.weight")]
    assert len(new) > 10
    assert not any(torch.equal(first[name], other[name]) for name in new)
    saved(tmp_path)
    first, other = weights(0, pretrained=True), weights(1, pretrained=True)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert changed == {f"heads.{i}.weight" for i in range(4)}


@pytest.mark.parametrize("family", ["Roberta", "Electra"])
def test_a_backbone_without_a_pooler_gets_a_new_one(family, tmp_path, capfd, caplog, monkeypatch):
    config = config_of(family)
    whole = getattr(transformers, f"{family}Model")
    backbone = whole(config, add_pooling_layer=False) if family == "Roberta" else whole(config)
    backbone.save_pretrained(tmp_path)
    capfd.readouterr()
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [caplog.handler])
    torch.manual_seed(0)
    model = encoder(tmp_path, config, pretrained=True)
    assert capfd.readouterr() == ("", "")  # no progress bar
    assert caplog.text == ""  # no report of missing weights
    assert model.pooler.weight.shape == (16, 16)
    assert 0.2 < model.pooler.weight.std() < 0.4
    assert model.pooler.bias.eq(0).all()
    torch.manual_seed(0)
    assert torch.equal(encoder(tmp_path, config, pretrained=True).pooler.weight, model.pooler.weight)
    embeddings = backbone.embeddings.word_embeddings.weight
    assert torch.equal(model.backbone["embeddings"].word_embeddings.weight, embeddings)


def test_a_frozen_backbone_stays_as_it_was(tmp_path):
    backbone = saved(tmp_path)
    model = encoder(tmp_path, backbone.config, pretrained=True, frozen=True).train()
    assert model.training
    assert model.dropout.training
    assert not any(module.training for module in model.backbone.modules())
    model(texts(model)).square().sum().backward()
    trained = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert trained == [name for name, _ in model.named_parameters() if name.startswith(("pooler.", "heads."))]
    assert len(model.pooler) == model.n_exits  # a copy of the pooler of the backbone for each exit
    for i, pooler in enumerate(model.pooler):
        assert torch.equal(pooler.weight, backbone.pooler.dense.weight)
        state = torch.randn(2, backbone.config.hidden_size)
        expected = model.heads[i](pooler(state).tanh())
        torch.testing.assert_close(model.eval().head(i, state), expected)
    assert len({pooler.weight.data_ptr() for pooler in model.pooler}) == model.n_exits
    states = [list(model.train().states(texts(model))) for _ in range(2)]  # no dropout inside
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_the_backbones_own_dropout_is_as_configured(bert, tmp_path):
    x = texts(bert)
    assert not torch.equal(next(bert.states(x)), next(bert.states(x)))
    config = config_of("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config.save_pretrained(tmp_path)
    model = encoder(tmp_path, config).train()
    torch.testing.assert_close(list(model.states(x)), list(model.states(x)), rtol=0, atol=0)


def test_it_trains_in_bfloat16(bert):
    x = texts(bert)
    bert.eval()
    expected = bert(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = bert(x)
    assert logits.dtype is torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)
    logits.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in bert.parameters())


def test_weights_are_float32_whatever_the_backbone_was_saved_in(tmp_path):
    backbone = copy.deepcopy(saved(tmp_path)).half()
    backbone.save_pretrained(tmp_path)
    for pretrained in (False, True):
        model = encoder(tmp_path, backbone.config, pretrained=pretrained)
        assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("pretrained", [False, True])
def test_it_is_built_to_be_trained(pretrained, tmp_path):
    backbone = saved(tmp_path)
    model = encoder(tmp_path, backbone.config, pretrained=pretrained)
    assert all(module.training for module in model.modules())
    model(texts(model)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_a_blank_text_is_not_padding(family, tmp_path):
    config = config_of(family)
    config.save_pretrained(tmp_path)
    model = encoder(tmp_path, config)
    blank = model.blank((5,))
    assert blank.shape == (1, 5)
    assert blank.dtype is torch.int64
    assert (blank != model.pad).all()


def fails(message, folder, config, vocabulary=None, **options):
    with pytest.raises(ValueError, match=message) as error:
        build_model(
            "encoder",
            classes=3,
            vocabulary=vocabulary or words(config, folder),
            backbone=str(folder),
            **options,
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"encoder: dropout=1.0, expected a number in \[0, 1\)"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"pooling": "max"}, "encoder: pooling='max', expected 'first' or 'mean'"),
        ({"layers": 0}, "encoder: layers=0, expected 1 to 4, as many as '.*' has"),
        ({"layers": 5}, "encoder: layers=5, expected 1 to 4"),
        ({"pretrained": True}, "could not be fetched .*HF_HOME"),
    ],
)
def test_bad_options(options, message, tmp_path):
    config = config_of("Bert")
    config.save_pretrained(tmp_path)
    fails(message, tmp_path, config, **options)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("Bert", {"size": 41}, "texts have 41 tokens and pad with 0, but .* has 40 and 0: expected dataset.tokenizer"),
        ("Bert", {"pad": 1}, "pad with 1, but .* has 40 and 0: expected dataset.tokenizer to be the backbone's"),
        ("Bert", {"max_tokens": 21}, "encoder: max_tokens=21, but .* takes at most 20 tokens"),
        ("Roberta", {"max_tokens": 19}, "takes at most 18 tokens"),
    ],
)
def test_texts_that_do_not_fit_the_backbone(family, change, message, tmp_path):
    config = config_of(family)
    config.save_pretrained(tmp_path)
    fails(message, tmp_path, config, words(config, tmp_path, **change))


def test_exits_may_read_the_mean_over_all_tokens(tmp_path):
    backbone = saved(tmp_path)
    model = encoder(tmp_path, backbone.config, pretrained=True, pooling="mean").eval()
    ids = torch.tensor([[2, 11, 12, 13, 3]])  # without padding
    hidden = backbone(input_ids=ids, output_hidden_states=True).hidden_states
    for state, expected in zip(model.states(ids), hidden, strict=True):
        torch.testing.assert_close(state, expected.mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "most"), [("Bert", 20), ("Roberta", 18), ("Albert", 20)])
def test_the_longest_text_that_is_taken_runs(family, most, tmp_path):
    config = config_of(family)
    config.save_pretrained(tmp_path)
    vocabulary = words(config, tmp_path, max_tokens=most)
    model = build_model("encoder", classes=3, vocabulary=vocabulary, backbone=str(tmp_path))
    assert model(model.blank((most,))).shape == (1, 4, 3)
    with pytest.raises((IndexError, RuntimeError)):
        model(model.blank((most + 1,)))


def test_other_architectures_are_refused(tmp_path):
    config = config_of("Bert")
    transformers.MPNetConfig().save_pretrained(tmp_path)  # its layers need a bias that others do not have
    fails("'.*' is a mpnet, expected one of albert, bert, camembert, electra", tmp_path, config)
    fails("could not be fetched", tmp_path / "none", config)


def test_weights_of_too_few_layers_are_refused(tmp_path):
    saved(tmp_path, num_hidden_layers=2)
    config = config_of("Bert")
    config.save_pretrained(tmp_path)
    fails("has no weights for encoder.layer.2.attention", tmp_path, config, pretrained=True)


def test_transformers_messages_are_back_afterwards(tmp_path):
    from transformers.utils import logging as messages

    before = messages.get_verbosity(), messages.is_progress_bar_enabled()
    saved(tmp_path)
    encoder(tmp_path, config_of("Bert"), pretrained=True)
    fails("could not be fetched", tmp_path / "none", config_of("Bert"))
    assert (messages.get_verbosity(), messages.is_progress_bar_enabled()) == before
    assert before[0] < messages.ERROR
    assert before[1]
