"""Item vectors of codes and features: what they are, and what cold items have of them."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.objectives import BehaviorCloningLoss
from torchrl_drpo.policies import (
    EncoderConfig,
    ItemTableConfig,
    catalogue_policy,
    make_catalogue_actor,
)
from torchrl_drpo.policies.item_tables import ItemCodes, ItemFeatures

V, D, L, N = 30, 8, 4, 20
COLD = 5  # the last items, which no row shows
CODES = torch.stack([torch.arange(V) % 4, torch.arange(V) // 4, torch.arange(V) % 3], 1)
CODES[::7, 2] = -1
FEATURES = torch.randn(V, 6, generator=torch.Generator().manual_seed(0)) * 100 + 7
FEATURES[3] = 0.0
DATA = {"codes": CODES, "features": FEATURES}


def make(kind: str, own: bool = False, hidden: tuple[int, ...] = (), **options):
    config = ItemTableConfig(kind, hidden=hidden, own=own)
    return make_catalogue_actor(
        V, dim=D, history=L, item_table=config, item_data=DATA[kind], **options
    )


def rows(seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(-1, V - COLD, (N, L), generator=generator).sort(1).values
    action = torch.randint(V - COLD, (N,), generator=generator)
    return TensorDict({"observation": {"history": history}, "action": action}, [N])


def by_hand(kind: str, table: ItemCodes | ItemFeatures) -> Tensor:
    """Item vectors, one item after the other, in float64."""
    out = []
    for item in range(V):
        if kind == "codes":
            vector = torch.zeros(D, dtype=torch.double)
            for level, code in enumerate(CODES[item].tolist()):
                if code >= 0:
                    vector = vector + table.vectors[level][code].double()
        elif not FEATURES[item].any():
            vector = table.unknown.double()
        else:
            known = FEATURES[FEATURES.any(1)].double()
            spread = known.std(0, correction=0)
            vector = (FEATURES[item].double() - known.mean(0)) / spread
            layers = [layer for layer in table.project if isinstance(layer, torch.nn.Linear)]
            for number, layer in enumerate(layers):
                vector = layer.weight.double() @ vector + layer.bias.double()
                vector = vector.clamp_min(0) if number + 1 < len(layers) else vector
        if table.own is not None:
            vector = vector + table.own[item].double()
        out.append(vector)
    return torch.stack(out)


@pytest.mark.parametrize("hidden", [(), (5,)])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", DATA)
def test_item_vectors_are_those_of_the_formula(kind: str, own: bool, hidden) -> None:
    if kind == "codes" and hidden:
        pytest.skip("codes have no projection")
    policy = catalogue_policy(make(kind, own, hidden))
    for parameter in policy.item_table.parameters():
        torch.nn.init.normal_(parameter)
    expected = by_hand(kind, policy.item_table)
    torch.testing.assert_close(policy.item_vectors().double(), expected, atol=1e-5, rtol=1e-5)
    some = torch.tensor([[3, 29], [0, 7]])
    torch.testing.assert_close(
        policy.item_table(some).double(), expected[some], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", DATA)
def test_cold_items_are_ranked_by_what_is_known_of_them(kind: str) -> None:
    """Items that no row shows come out of topk, with the scores that the formula gives."""
    torch.manual_seed(1)
    actor, td = make(kind), rows()
    optimizer = torch.optim.Adam(actor.parameters(), lr=0.03)
    loss = BehaviorCloningLoss(actor)
    for _ in range(60):
        optimizer.zero_grad()
        loss(td)["loss_actor"].backward()
        optimizer.step()
    dist = actor.get_dist(td)
    top = dist.topk(V // 2)
    policy = catalogue_policy(actor)
    logits = dist.hidden.double() @ by_hand(kind, policy.item_table).T + policy.bias.double()
    expected = logits.log_softmax(1).gather(1, top.indices)
    torch.testing.assert_close(top.values.double(), expected, atol=1e-5, rtol=1e-5)
    assert (top.indices >= V - COLD).any()
    # A cold item may be read in a history, too, and is told from another.
    td["observation", "history"][:, -1] = V - 1
    one = actor.get_dist(td).hidden
    td["observation", "history"][:, -1] = V - 2
    assert not torch.isclose(one, actor.get_dist(td).hidden).all(1).any()


def test_items_that_share_codes_share_what_is_learned() -> None:
    """A warm item's rows raise a cold item of its codes, and no other one."""
    codes = torch.tensor([[0, 0], [0, 1], [1, 2], [0, 0], [2, 3]])  # item 3 is cold
    actor = make_catalogue_actor(
        5, dim=D, history=1, item_table="codes", item_data=codes, bias=False
    )
    td = TensorDict(
        {
            "observation": {"history": torch.full((8, 1), -1)},
            "action": torch.tensor([0, 0, 0, 0, 0, 0, 1, 2]),
        },
        [8],
    )
    optimizer = torch.optim.Adam(actor.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        BehaviorCloningLoss(actor)(td)["loss_actor"].backward()
        optimizer.step()
    policy = catalogue_policy(actor)
    assert torch.equal(policy.item_vectors()[0], policy.item_vectors()[3])
    assert set(actor.get_dist(td[:1]).topk(2).indices[0].tolist()) == {0, 3}


@pytest.mark.parametrize("encoder", [None, EncoderConfig("transformer", layers=1)])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", DATA)
def test_gradients_reach_what_vectors_are_made_of(kind: str, own: bool, encoder) -> None:
    actor, td = make(kind, own, encoder=encoder), rows()
    actor.get_dist(td).log_prob(td["action"]).sum().backward()
    for name, parameter in actor.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    table = catalogue_policy(actor).item_table
    learned = table.vectors[0] if kind == "codes" else table.project[0].weight
    assert learned.grad.any()
    # The gradient of the code's vector is that of finite differences, history and softmax together.
    double = copy.deepcopy(actor).double()
    parameter = next(iter(catalogue_policy(double).item_table.parameters()))

    def log_prob(_: Tensor) -> Tensor:
        return double.get_dist(td).log_prob(td["action"]).sum()

    torch.autograd.gradcheck(log_prob, (parameter,), fast_mode=True)


@pytest.mark.parametrize("kind", DATA)
def test_a_saved_policy_is_made_again_without_the_data(kind: str) -> None:
    actor, td = make(kind, own=True), rows()
    policy = catalogue_policy(actor)
    config = ItemTableConfig.of(ItemTableConfig(kind, own=True), DATA[kind], V)
    again = make_catalogue_actor(V, dim=D, history=L, item_table=config.to_json())
    assert not torch.equal(again.get_dist(td).logits, actor.get_dist(td).logits)
    catalogue_policy(again).load_state_dict(policy.state_dict())
    torch.testing.assert_close(again.get_dist(td).logits, actor.get_dist(td).logits)


@pytest.mark.parametrize("kind", DATA)
def test_functional_parameters_are_the_ones_that_are_read(kind: str) -> None:
    actor, other, td = make(kind), make(kind), rows()
    with TensorDict.from_module(other).to_module(actor):
        got = actor.get_dist(td).log_prob(td["action"])
    torch.testing.assert_close(got, other.get_dist(td).log_prob(td["action"]))


@pytest.mark.parametrize("kind", DATA)
def test_vectors_are_of_about_unit_length_at_first(kind: str) -> None:
    torch.manual_seed(0)
    codes, features = torch.randint(50, (500, 3)), torch.randn(500, 12)
    data = codes if kind == "codes" else features
    actor = make_catalogue_actor(500, dim=32, history=L, item_table=kind, item_data=data)
    policy = catalogue_policy(actor)
    assert policy.item_vectors().norm(dim=1).mean().item() == pytest.approx(1.0, rel=0.15)
    for parameter in policy.item_table.parameters():
        parameter.data.fill_(7.0)
    actor.reset_parameters_recursive()
    assert policy.item_vectors().norm(dim=1).mean().item() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"item_table": "names"}, "item_table must be ids, codes or features, got 'names'"),
        ({"item_table": "codes"}, r"needs item_data: the items' codes, int \[V, T\]"),
        ({"item_data": CODES}, "item_table='ids' learns its vectors from rows"),
        ({"item_table": "codes", "item_data": FEATURES}, "item_data of codes must be integers"),
        ({"item_table": "features", "item_data": CODES}, "item_data of features must be floating"),
        ({"item_table": "codes", "item_data": CODES[:4]}, "a row for each of the 30 items"),
        ({"item_table": "codes", "item_data": CODES - 2}, "-1 for none, but item 0 has -2"),
        (
            {"item_table": ItemTableConfig("codes", (4, 8, 2)), "item_data": CODES},
            "level 2 has 2 codes but item 2 has code 2",
        ),
        (
            {"item_table": "features", "item_data": FEATURES.masked_fill(FEATURES == 0, torch.nan)},
            "mend these items",
        ),
        (
            {"item_table": "codes", "item_data": CODES, "tie_embeddings": False},
            "leave tie_embeddings=False out",
        ),
    ],
)
def test_data_that_makes_no_table_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_catalogue_actor(V, dim=D, history=L, **options)
