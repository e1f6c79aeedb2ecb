# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a log to a better policy
#
# A recommender's log is mostly poor behaviour: things that were shown because they were popular,
# or at random. This tutorial takes such a log, learns from it in three ways, and shows what each
# of them makes of it:
#
# * **Behaviour cloning** imitates every row, the poor ones included.
# * The **signed loss** ("APG") attracts to what was better than average and repels from the rest.
# * **DRPO** keeps the best fraction of each batch, adapts that fraction, and learns from it alone.
#
# It needs no GPU and about three minutes; `DRPO_TUTORIAL_QUICK=1` makes it a matter of seconds.

# %%
import logging
import os

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_drpo import (
    BehaviorCloningLoss,
    DRPOLoss,
    RecSimEnv,
    RepulsiveLoss,
    make_gaussian_actor,
)
from torchrl_drpo.evaluation.simulator import evaluate_policy, oracle_reward, random_reward
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.trainer import OfflineTrainer

logging.getLogger("torchrl").setLevel(logging.WARNING)
torch.set_num_threads(2)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
STEPS = 300 if QUICK else 3_000

# %% [markdown]
# ## The log
#
# `RecSimEnv` is the simulator of the paper: a user is a state of ten numbers with a hidden
# interest, an item is a direction in 128 dimensions, and the closer the two the higher the
# reward. The logging policy of the "extreme" scenario shows a good item 5% of the time, a popular
# one 5%, and a random one 90%.

# %%
env = RecSimEnv("table", seed=0)
log = env.simulate_log(3_000, "extreme", seed=1)
log

# %% [markdown]
# The rows are in TorchRL's usual format: `observation`, `action` (the embedding of the item that
# was shown), `("next", "reward")`. A simulated log also knows what a real one hides: the
# `latent_reward` without its noise. Few rows are worth imitating:

# %%
reward = log["next", "reward"].squeeze(-1)
fig, ax = plt.subplots(figsize=(6, 3))
ax.hist(reward.numpy(), bins=50, color="#56B4E9")
ax.axvline(reward.quantile(0.9), color="#009E73", label="the best 10% start here")
ax.set(xlabel="observed reward", ylabel="rows", title="Most of the log is poor behaviour")
ax.legend()
plt.show()

# %% [markdown]
# ## The pipeline
#
# A replay buffer, an actor, a loss: all of them TorchRL's or of its kind. The loss names the rows
# that it used: `kappa` is the fraction that it kept, `threshold` the reward above which.

# %%
buffer = TensorDictReplayBuffer(
    storage=LazyTensorStorage(len(log)), generator=torch.Generator().manual_seed(0)
)
buffer.extend(log.select("observation", "action", ("next", "reward")))

actor = make_gaussian_actor(state_dim=10, action_dim=128)
loss = DRPOLoss(actor)
out = loss(buffer.sample(320))
{name: round(value.item(), 3) for name, value in out.detach().items()}

# %% [markdown]
# ## Three objectives, one loop
#
# Each policy is judged on 1,024 new users by the latent reward of the item nearest to its mean
# action, and of that action itself. The second number separates policies better: retrieval snaps
# to the nearest item, which hides how far a policy has strayed.

# %%
users = env.draw_states(256 if QUICK else 1_024, seed=2)
interest = env.world.interest(users)
delta = env.setting.delta


def train(make_loss):
    torch.manual_seed(0)
    actor = make_gaussian_actor(state_dim=10, action_dim=128)

    def evaluate(step):
        policy = actor.get_dist(TensorDict({"observation": users[:1]}, batch_size=[1]))
        metrics = evaluate_policy(actor, users, interest, env.items, delta=delta)
        return metrics | {"log_sigma": policy.scale.log().mean().item()}

    config = TrainerConfig(steps=STEPS, evaluate_every=max(50, STEPS // 20), log_every=25)
    return OfflineTrainer(make_loss(actor), buffer, config, evaluate=evaluate).run()


runs = {
    "BC": train(BehaviorCloningLoss),
    "APG": train(RepulsiveLoss),
    "DRPO": train(DRPOLoss),
}

# %%
ends = {
    "random": random_reward(interest, env.items, delta=delta).mean().item(),
    "oracle": oracle_reward(interest, env.items, delta=delta).mean().item(),
}
print(f"{'random':>8}: {ends['random']:.3f}")
for name, run in runs.items():
    print(f"{name:>8}: {run.last('retrieved_reward'):.3f}   raw {run.last('raw_reward'):.3f}")
print(f"{'oracle':>8}: {ends['oracle']:.3f}")

# %%
COLOURS = {"BC": "#56B4E9", "APG": "#D55E00", "DRPO": "#009E73"}
fig, axes = plt.subplots(1, 3, figsize=(14, 3.6), layout="constrained")
panels = ["retrieved_reward", "raw_reward", "log_sigma"]
titles = ["reward of the retrieved item", "reward of the raw action", "mean log sigma"]
for ax, metric, title in zip(axes, panels, titles):
    for name, run in runs.items():
        ax.plot(*zip(*run.evaluation[metric]), color=COLOURS[name], label=name)
    ax.set(title=title, xlabel="gradient steps")
for name, level in ends.items():
    axes[0].axhline(level, color="gray" if name == "random" else "black", ls=":", label=name)
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# What to see here:
#
# * BC ends near what the log did: noise cloning. It ranks what was shown, not what was liked.
# * The signed loss learns quickly at first and then loses what it had: each rejected row keeps
#   pushing after the policy has left it, and sigma shrinks, which makes every push stronger.
# * DRPO learns from the good rows only and stays.

# %%
assert runs["DRPO"].last("retrieved_reward") > runs["BC"].last("retrieved_reward")

# %% [markdown]
# ## How the filter moves
#
# kappa starts at one half. While the kept rows are still spread out against the batch it shrinks,
# and so the threshold rises. On this log it settles near its lower bound, 5%, which is about the
# share of rows that the expert wrote.

# %%
fig, ax = plt.subplots(figsize=(6, 3))
for name, colour in (("kappa", "#009E73"), ("threshold", "#0072B2")):
    ax.plot(*zip(*runs["DRPO"].training[name]), label=name, color=colour)
ax.set(xlabel="gradient steps", ylim=(0, 1), title="DRPO's filter")
ax.legend()
plt.show()

# %% [markdown]
# ## Your own log
#
# A log in Parquet goes in through a schema that names its columns, and comes out as the same kind
# of rows: `RecReplayBuffer.from_parquet(path, schema)`. With a catalogue of items the actor is
# `make_catalogue_actor`; the loss stays the same. The README shows it on KuaiRand, and
# `drpo train --help` does it from the command line.
