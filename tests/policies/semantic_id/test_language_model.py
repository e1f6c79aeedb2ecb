"""Language models as decoders of codes; skipped where transformers is not installed."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo import BehaviorCloningLoss, DRPOLoss, RepulsiveLoss
from torchrl_drpo.distributions.code_trie import CodeTrie
from torchrl_drpo.policies.semantic_id import (
    LanguageModelDecoder,
    make_semantic_id_actor,
    semantic_id_policy,
)

transformers = pytest.importorskip("transformers", exc_type=ImportError)

D, V = 8, 40
CODES = torch.stack([torch.arange(V) % 4, torch.arange(V) // 4 % 5, torch.arange(V) // 12], 1)


def language_model(name: str, vocabulary: int = 30, *, tied: bool = False):
    """A tiny one, its weights drawn at random."""
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": tied}
    if name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=16, **ends
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, **ends,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def actor(name: str, *, tied: bool = False, prefix: int = 2):
    decoder = LanguageModelDecoder(
        language_model(name, tied=tied), CodeTrie(CODES).sizes, D, prefix=prefix
    )
    return make_semantic_id_actor(CODES, head=decoder, dim=D, history=3)


def rows(count: int = 12) -> TensorDict:
    generator = torch.Generator().manual_seed(2)
    return TensorDict(
        {
            "observation": {"history": torch.randint(-1, V, (count, 3), generator=generator)},
            "action": torch.randint(0, V, (count,), generator=generator),
            ("next", "reward"): torch.rand(count, 1, generator=generator),
        },
        [count],
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_model_without_a_cache_says_the_same(name: str) -> None:
    whole = actor(name).eval()
    policy = semantic_id_policy(whole)
    decoder, trie = policy.decoder, policy.trie
    with torch.no_grad():
        dist = whole.get_dist(rows(4))
        mine = dist.logits.exp()
        table = decoder.model.get_input_embeddings()
        prompt = decoder.project(dist.hidden).unflatten(-1, (2, -1))
        first = 30 - sum(trie.sizes)
        tokens = CODES + torch.tensor([first, first + 4, first + 9])
        for item in range(0, V, 7):
            entry = torch.cat([prompt, table(tokens[item, :2]).expand(4, -1, -1)], 1)
            scores = decoder.model(inputs_embeds=entry, use_cache=False).logits[:, 1:]
            total = 1
            for level in range(3):
                same = (CODES[:, :level] == CODES[item, :level]).all(1)
                legal = tokens[same, level].unique()
                chance = scores[:, level, legal].softmax(-1)
                total = total * chance[:, legal == tokens[item, level]].squeeze(1)
            sharing = (CODES[item] == CODES).all(1).sum()
            torch.testing.assert_close(mine[:, item], total / sharing, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mine.sum(-1), torch.ones(4))


def test_beams_carry_their_keys_and_values_along() -> None:
    whole = actor("llama").eval()
    with torch.no_grad():
        dist = whole.get_dist(rows(5))
        best = dist.logits.sort(-1, descending=True)
        found = dist.topk(V, beam=V)  # lets nothing go, and reorders at every level
        torch.testing.assert_close(found.values, best.values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dist.log_prob(found.indices.T).T, found.values)
        drawn = dist.sample_lists(6, exclude=torch.tensor([1, 2]))
    assert not torch.isin(drawn.indices, torch.tensor([1, 2])).any()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("objective", [BehaviorCloningLoss, DRPOLoss, RepulsiveLoss])
def test_every_objective_trains_it(objective: type, tied: bool) -> None:
    whole = actor("gpt2", tied=tied, prefix=1)
    loss, data = objective(whole), rows(64)
    before = {name: each.detach().clone() for name, each in whole.named_parameters()}
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    best = data[data["next", "reward"].flatten().topk(6).indices]

    @torch.no_grad()
    def likelihood() -> float:
        whole.eval()
        found = whole.get_dist(best).log_prob(best["action"]).mean()
        whole.train()
        return float(found)

    first = likelihood()
    for _ in range(20):
        loss(data)["loss_actor"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert likelihood() > first
    moved = [n for n, each in whole.named_parameters() if not torch.equal(each, before[n])]
    assert any("model.transformer.h.1" in name for name in moved)


def test_a_vocabulary_without_room_is_refused() -> None:
    sizes = CodeTrie(CODES).sizes
    with pytest.raises(ValueError, match=r"13 codes from token -3 do not fit .* 10 tokens"):
        LanguageModelDecoder(language_model("gpt2", 10), sizes, D)
    with pytest.raises(ValueError, match="13 codes from token 20 do not fit"):
        LanguageModelDecoder(language_model("gpt2"), sizes, D, first_token=20)
    with pytest.raises(ValueError, match="prefix must be at least 1"):
        LanguageModelDecoder(language_model("gpt2"), sizes, D, prefix=0)
