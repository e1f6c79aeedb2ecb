"""What every encoder of sequences owes: GRU, transformer, and pooling where it can."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.objectives import BehaviorCloningLoss, DRPOLoss
from torchrl_drpo.policies import (
    EncoderConfig,
    HistoryEncoder,
    ObservationEncoder,
    catalogue_policy,
    make_catalogue_actor,
    make_gaussian_actor,
)

D, L, V, N = 8, 6, 40, 12
CONFIGS = {
    "mean": EncoderConfig(pooling="mean"),
    "attention": EncoderConfig(pooling="attention"),
    "gru": EncoderConfig("gru", layers=2, width=10),
    "transformer": EncoderConfig("transformer", layers=2, heads=2),
    "narrow": EncoderConfig("transformer", layers=1, heads=3, width=12, times=True, feedback=True),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> EncoderConfig:
    return CONFIGS[request.param]


def made(config: EncoderConfig, length: int = L, **options) -> HistoryEncoder:
    """An encoder in which no parameter has its first, neutral value."""
    encoder = HistoryEncoder(D, length, config=config, **options).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return encoder


def rows(config: EncoderConfig, batch: int = N, length: int = L) -> dict[str, Tensor]:
    """Left-padded histories of 0 to L items, and what else the encoder reads."""
    count = torch.arange(batch) % (length + 1)
    mask = torch.arange(length) >= length - count.unsqueeze(1)
    out = {"embedded": torch.randn(batch, length, D, dtype=torch.double), "mask": mask}
    if config.times:
        out["times"] = torch.randint(0, 10_000, (batch, length)).cumsum(1)
    if config.feedback:
        out["feedback"] = torch.rand(batch, length)
    return out


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


def test_a_row_depends_on_no_padding_and_on_no_other_row(config: EncoderConfig) -> None:
    encoder, given = made(config), rows(config)
    together = encoder(**given)
    padding = {name: value.clone() for name, value in given.items()}
    for name, value in padding.items():
        if name != "mask":
            value[~given["mask"]] = 77  # what padding holds
    close(encoder(**padding), together)
    for row in range(N):
        count = int(given["mask"][row].sum())
        alone = {name: value[row : row + 1, L - count :] for name, value in given.items()}
        if count:
            close(encoder(**alone)[0], together[row])


def test_items_that_are_not_there_may_lie_anywhere(config: EncoderConfig) -> None:
    """A policy may not know some items of another log's histories: these are left out."""
    encoder, given = made(config), rows(config, batch=1)
    given["mask"][:] = True
    kept = torch.tensor([0, 2, 3, 5])
    holes = given | {"mask": torch.zeros(1, L, dtype=torch.bool).index_fill(1, kept, True)}
    without = {name: value[:, kept] for name, value in given.items()}
    if config.pooling == "mean" or config.kind != "pooling":  # else places have their own weight
        close(encoder(**holes), encoder(**without))


def test_nan_in_padding_is_not_seen(config: EncoderConfig) -> None:
    if config.kind == "pooling":
        pytest.skip("a pooled zero weight times NaN is NaN; tables hold no NaN")
    encoder, given = made(config), rows(config)
    expected = encoder(**given)
    given["embedded"][~given["mask"]] = torch.nan
    close(encoder(**given), expected)


def test_one_pass_gives_the_state_of_every_history(config: EncoderConfig) -> None:
    encoder, given = made(config), rows(config)
    places = encoder.places(**given)
    assert places.shape == (N, L + 1, D)
    for row in range(N):
        count = int(given["mask"][row].sum())
        for seen in range(count + 1):
            mask = torch.zeros(1, L, dtype=torch.bool)
            mask[0, L - count : L - count + seen] = True
            alone = {name: value[row : row + 1] for name, value in given.items()} | {"mask": mask}
            if config.pooling != "mean" and config.kind == "pooling":  # its last place is latest
                alone = {name: value.roll(count - seen, 1) for name, value in alone.items()}
            close(encoder.finish(places[row, seen]), encoder(**alone)[0])


def test_what_comes_later_changes_nothing(config: EncoderConfig) -> None:
    encoder, given = made(config), rows(config, batch=3)
    given["mask"][:] = True
    before = encoder.places(**given)
    later = {name: value.clone() for name, value in given.items()}
    later["embedded"][:, 4:] = torch.randn(3, L - 4, D, dtype=torch.double)
    after = encoder.places(**later)
    close(after[:, :5], before[:, :5])
    assert not torch.isclose(after[:, 5:], before[:, 5:]).all(-1).any()


def test_an_empty_history_has_a_learned_state(config: EncoderConfig) -> None:
    encoder, given = made(config), rows(config)
    empty = encoder(**given)[0]
    assert empty.isfinite().all()
    assert empty.abs().sum() > 0
    empty.square().sum().backward()
    sequence = encoder.pooling if config.kind == "pooling" else encoder.sequence
    start = sequence.empty if config.kind == "pooling" else sequence.start
    assert start.grad.any()


def test_gradients_are_those_of_finite_differences(config: EncoderConfig) -> None:
    encoder, given = made(config, length=3), rows(config, batch=4, length=3)
    parameters = list(encoder.parameters())
    embedded = given.pop("embedded").requires_grad_()

    def states(embedded: Tensor, *_: Tensor) -> Tensor:
        return encoder(embedded, **given)

    def places(embedded: Tensor, *_: Tensor) -> Tensor:
        found = encoder.places(embedded, **given)
        seen = torch.arange(4) <= given["mask"].sum(1, keepdim=True)
        return found[seen]

    torch.autograd.gradcheck(states, (embedded, *parameters), fast_mode=True)
    torch.autograd.gradcheck(places, (embedded, *parameters), fast_mode=True)


def test_contexts_and_features_join_where_a_history_ends(config: EncoderConfig) -> None:
    encoder, given = made(config, context_sizes=(3,), num_features=2), rows(config)
    context, features = torch.randint(-1, 3, (N, 1)), torch.randn(N, 2)
    expected = encoder(**given, context=context, features=features)
    count = given["mask"].sum(1)
    last = encoder.places(**given)[torch.arange(N), count]
    close(encoder.finish(last, context, features), expected)
    other = encoder(**given, context=(context + 2) % 3, features=features)
    assert not torch.isclose(other, expected).all(-1).any()


def test_any_batch_shape(config: EncoderConfig) -> None:
    encoder, given = made(config), rows(config)
    shaped = {name: value.reshape(3, 4, *value.shape[1:]) for name, value in given.items()}
    close(encoder(**shaped), encoder(**given).reshape(3, 4, D))
    close(encoder.places(**shaped), encoder.places(**given).reshape(3, 4, L + 1, D))


def test_dropout_is_for_training(config: EncoderConfig) -> None:
    config = EncoderConfig(**(vars(config) | {"dropout": 0.5}))
    encoder, given = made(config), rows(config)
    encoder.eval()
    close(encoder(**given), encoder(**given))
    encoder.train()
    assert not torch.equal(encoder(**given)[1:], encoder(**given)[1:])


def observed(config: EncoderConfig, **columns) -> TensorDict:
    given = rows(config)
    history = torch.where(given["mask"], torch.randint(V, (N, L)), -1)
    observation = {"history": history}
    if config.times:
        observation["history_time"] = given["times"]
    if config.feedback:
        observation["history_feedback"] = given["feedback"]
    return TensorDict({"observation": observation, **columns}, [N])


def test_actors_read_it(config: EncoderConfig) -> None:
    td = observed(config, action=torch.randint(V, (N,)))
    td["next", "reward"] = torch.rand(N, 1)
    actor = make_catalogue_actor(V, dim=D, history=L, encoder=config)
    loss = DRPOLoss(actor, kappa=0.5)
    loss(td)["loss_actor"].backward()
    policy = catalogue_policy(actor)
    assert policy.items.grad.any()
    assert all(parameter.grad is not None for parameter in policy.parameters())
    assert actor.get_dist(td).log_prob(td["action"]).shape == (N,)
    gaussian = make_gaussian_actor(D, 3, encoder=config, num_items=V, history=L)
    td["action"] = torch.randn(N, 3)
    loss = BehaviorCloningLoss(gaussian)
    loss(td)["loss_actor"].backward()
    assert all(parameter.grad is not None for parameter in gaussian.parameters())


def test_an_actor_says_which_entry_is_missing() -> None:
    config = CONFIGS["narrow"]
    for key in ("history_time", "history_feedback"):
        for actor in (
            make_catalogue_actor(V, dim=D, history=L, encoder=config),
            make_gaussian_actor(D, 3, encoder=config, num_items=V, history=L),
        ):
            with pytest.raises(KeyError, match=key):
                actor.get_dist(observed(config).exclude(("observation", key)))


def test_functional_parameters_are_the_ones_that_are_read(config: EncoderConfig) -> None:
    td = observed(config, action=torch.randint(V, (N,)))
    actor, other = (make_catalogue_actor(V, dim=D, history=L, encoder=config) for _ in range(2))
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with TensorDict.from_module(other).to_module(actor):
        got = actor.get_dist(td).log_prob(td["action"])
    torch.testing.assert_close(got, other.get_dist(td).log_prob(td["action"]))


def test_vmap_over_an_ensemble_equals_one_by_one(config: EncoderConfig) -> None:
    td = observed(config, action=torch.randint(V, (N,)))
    actors = [make_catalogue_actor(V, dim=D, history=L, encoder=config) for _ in range(3)]
    for actor in actors:
        for parameter in actor.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    stacked = torch.stack([TensorDict.from_module(actor) for actor in actors])

    def log_prob(params: TensorDict) -> Tensor:
        with params.to_module(actors[0]):
            return actors[0].get_dist(td).log_prob(td["action"])

    expected = torch.stack([actor.get_dist(td).log_prob(td["action"]) for actor in actors])
    torch.testing.assert_close(torch.vmap(log_prob)(stacked), expected, atol=1e-5, rtol=1e-5)


def test_no_rows_are_no_states(config: EncoderConfig) -> None:
    encoder, given = made(config), rows(config)
    none = {name: value[:0] for name, value in given.items()}
    assert encoder(**none).shape == (0, D)
    assert encoder.places(**none).shape == (0, L + 1, D)


@pytest.mark.parametrize("name", ["gru", "narrow"])  # each takes seconds; narrow reads everything
def test_compiled_equals_eager(name: str) -> None:
    config = CONFIGS[name]
    actor = make_catalogue_actor(V, dim=D, history=L, encoder=config)
    td = observed(config, action=torch.randint(V, (N,)))

    def log_prob(data: TensorDict) -> Tensor:
        return actor.get_dist(data).log_prob(data["action"])

    compiled = torch.compile(log_prob, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(td), log_prob(td))


def test_a_state_dict_and_a_deep_copy_carry_it_whole(config: EncoderConfig) -> None:
    encoder, other = (ObservationEncoder(V, D, history=L, encoder=config) for _ in range(2))
    history = torch.where(rows(config)["mask"], torch.randint(V, (N, L)), -1)
    more = {name: value for name, value in rows(config).items() if name in ("times", "feedback")}
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other(history, **more), encoder(history, **more))
    twin = copy.deepcopy(encoder)
    torch.testing.assert_close(twin(history, **more), encoder(history, **more))


def test_parameters_are_reset_to_the_law_that_they_were_drawn_from(config: EncoderConfig) -> None:
    config = EncoderConfig(**(vars(config) | {"width": 48 if config.kind != "pooling" else None}))
    actor = make_catalogue_actor(400, dim=48, history=L, encoder=config)
    spread = {name: p.detach().std().item() for name, p in actor.named_parameters()}
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.fill_(7.0)
    actor.reset_parameters_recursive()
    for name, parameter in actor.named_parameters():
        assert not (parameter == 7.0).any(), name
        if parameter.numel() > 40:
            assert parameter.std().item() == pytest.approx(spread[name], rel=0.4), name
