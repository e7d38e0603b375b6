"""The teacher equals the published code, with and without cache, window and padding."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hoser_kd.common.errors import ConfigError
from hoser_kd.lmtad import LMTAD, LMTADConfig, load_checkpoint

LEARNED = ["lmtad_ckpt", "lmtad_ckpt_orig_mod", "lmtad_ckpt_official_vocab"]


@pytest.fixture(scope="module")
def published(golden):
    return np.load(golden / "lmtad_io.npz")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LMTAD(LMTADConfig(block_size=20, vocab_size=33, n_layer=3, n_head=2, n_embd=16)).eval()


def batch(published, config):
    """Batch of the fixture with the special tokens of this vocabulary."""
    ids = torch.tensor(published["ids"])
    return torch.where(ids >= 100, ids - 103 + config.vocab_size, ids)


@pytest.mark.parametrize("name", LEARNED)
def test_outputs_equal_the_published_code(golden, published, name):
    checkpoint = load_checkpoint(golden / f"{name}.pt")
    model, tokens_BT = checkpoint.model, batch(published, checkpoint.config)
    with torch.no_grad():
        close(model(tokens_BT), published[f"{name}_logits"])
        close(model(torch.tensor(published["ids_full"]))[:, -8:], published[f"{name}_logits_full"])
        close(model.loss(tokens_BT), published[f"{name}_loss"])
    close(model.log_perplexity(tokens_BT), published[f"{name}_log_perplexity"])
    close(model.log_perplexity(tokens_BT), published[f"{name}_log_perplexity_slow"])


def test_integer_positions_equal_a_batch_of_one(golden, published):
    with pytest.warns(UserWarning, match="integer_poe"):
        model = load_checkpoint(golden / "lmtad_ckpt_integer_poe.pt").model
    tokens_BT = torch.tensor(published["ids"])
    with torch.no_grad():
        logits_BTV = model(tokens_BT)
        close(logits_BTV[0], published["lmtad_ckpt_integer_poe_logits"][0])
        close(model(tokens_BT[5:6])[0], logits_BTV[5])
        close(model(torch.tensor(published["ids_full"]))[0, -8:], published["lmtad_ckpt_integer_poe_logits_full"][0])
    close(model.log_perplexity(tokens_BT), published["lmtad_ckpt_integer_poe_log_perplexity_slow"])


def test_next_distribution_equals_the_published_code(golden, published):
    model = load_checkpoint(golden / "lmtad_ckpt.pt").model
    close(model.predict_next_distribution(published["hist"]), published["hist_p_full"])
    close(model.predict_next_distribution(published["hist"].tolist(), window=4), published["hist_p_w4"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 32), min_size=1, max_size=30), st.data())
def test_cached_and_uncached_distributions_agree(model, tokens, data):
    tokens = tokens[: model.config.block_size]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(tokens) - 1)))) | {len(tokens)})
    cache = model.start_cache()
    for start, end in zip([0, *cuts], cuts, strict=False):
        probabilities = model.extend_next_distribution(torch.tensor([tokens[start:end]]), cache)
    close(probabilities[0], model.predict_next_distribution(tokens))


def test_a_cached_step_computes_only_the_new_token(model, monkeypatch):
    """With a cache, blocks receive only the new token."""
    seen = []
    block = model.transformer.h[0].forward
    monkeypatch.setattr(model.transformer.h[0], "forward", lambda x, *rest: seen.append(x.shape[1]) or block(x, *rest))
    cache = model.start_cache()
    for tokens in ([32, 1, 2, 3, 4, 5, 6], [7], [8]):
        model.extend_next_distribution(torch.tensor([tokens]), cache)
    assert seen == [7, 1, 1]


def test_half_precision_on_a_cpu_is_float32(model):
    history = [32, 4, 5, 6]
    close(model.predict_next_distribution(history, half=True), model.predict_next_distribution(history), 0)
    cache = model.start_cache(half=True)
    assert cache.keys.dtype == torch.float32
    close(model.extend_next_distribution(torch.tensor([history]), cache)[0], model.predict_next_distribution(history))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu_is_close_with_and_without_cache(model):
    import copy

    teacher, history = copy.deepcopy(model).cuda(), [32, 4, 5, 6]
    half = teacher.predict_next_distribution(history, half=True)
    assert half.dtype == torch.float32
    close(half.cpu(), model.predict_next_distribution(history), 1e-3)
    cache = teacher.start_cache(half=True)
    assert cache.keys.dtype == torch.float16
    teacher.extend_next_distribution(torch.tensor([history[:2]], device="cuda"), cache)
    cached = teacher.extend_next_distribution(torch.tensor([history[2:]], device="cuda"), cache)[0]
    close(cached.cpu(), half.cpu(), 1e-3)


def test_a_full_cache_refuses_more(model):
    cache = model.start_cache(capacity=2)
    model.extend_next_distribution(torch.tensor([[32, 1]]), cache)
    with pytest.raises(ValueError, match="3 tokens is too long: at most 2 fit"):
        model.extend_next_distribution(torch.tensor([[1]]), cache)
    assert cache.length == 2


def test_histories_beyond_the_context_keep_its_last_tokens(model):
    history = torch.randint(0, 30, (27,))
    close(model.predict_next_distribution(history), model.predict_next_distribution(history[-20:]))
    with pytest.raises(ValueError, match="21 tokens is too long: at most 20 fit"):
        model(history[None, :21])
    for tokens, window in (([], None), ([[1, 2]], None), ([1, 2], 0)):
        with pytest.raises(ValueError, match=r"history_tokens|window"):
            model.predict_next_distribution(tokens, window)


def test_right_padding_has_no_effect(model):
    tokens_BT = torch.tensor([[32, 5, 6, 31, 30, 30, 30]])
    with torch.no_grad():
        close(model(tokens_BT)[:, :4], model(tokens_BT[:, :4]))
    close(model.log_perplexity(tokens_BT), model.log_perplexity(tokens_BT[:, :4]))
    assert (model.token_nll(tokens_BT)[0, 3:] == 0).all()


def test_the_chunked_loss_equals_the_plain_loss(monkeypatch):
    monkeypatch.setattr("hoser_kd.lmtad.model.TRAINED_AT_ONCE", 8)  # 30 tokens are then several parts, the last short
    torch.manual_seed(0)
    model = LMTAD(LMTADConfig(block_size=20, vocab_size=33, n_layer=2, n_head=2, n_embd=16))
    tokens_BT = torch.randint(0, 30, (3, 12))
    tokens_BT[1, 9:] = model.config.pad_token

    def plain():
        targets = tokens_BT[:, 1:].flatten()
        logits = model(tokens_BT[:, :-1]).flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, targets, ignore_index=model.config.pad_token)

    losses, gradients = [], []
    for loss in (model.loss(tokens_BT), plain()):
        model.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_every_weight_has_a_gradient():
    model = LMTAD(LMTADConfig(block_size=8, vocab_size=13, n_layer=2, n_head=2, n_embd=8, bias=True, dropout=0.1))
    model.loss(torch.tensor([[12, 1, 2, 11]])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_head": 3}, "n_embd 16 is not a multiple of n_head 3"),
        ({"vocab_size": 3}, "vocab_size is 3"),
        ({"n_layer": 0}, "n_layer is 0"),
    ],
)
def test_invalid_sizes_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        LMTADConfig(**{"block_size": 8, "vocab_size": 13, "n_layer": 1, "n_head": 2, "n_embd": 16, **change})


def test_learned_positions_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LMTAD(LMTADConfig(block_size=8, vocab_size=13, n_layer=1, n_head=1, n_embd=4))


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=0, atol=tolerance)
