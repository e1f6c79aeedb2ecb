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
# # Item vectors: from a log of item numbers to the recipe that beats DRPO
#
# A log holds item numbers, and a number has no neighbours. With a vector for each item a policy
# can say *something like this one*, and a reward model can say *more in this direction*. This
# tutorial takes a log and an item table from Parquet files to a policy over vectors, and then:
#
# 1. learns from the good rows alone: **positive-only** learning and **DRPO**;
# 2. fits a reward model, **moves the logged actions up its slope**, and learns the same way from
#    the moved rows. That is *uphill positive-only*;
# 3. judges all of them by the truth, which only a simulator knows.
#
# It needs no GPU and about a minute; `DRPO_TUTORIAL_QUICK=1` makes it a matter of seconds.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside an environment that has it
    subprocess.run([sys.executable, "-m", "pip", "install", "torchrl-drpo[cli]"], check=True)

# %%
import logging
import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_drpo import (
    BehaviorCloningLoss,
    DRPOLoss,
    LogSchema,
    RecReplayBuffer,
    RecSimEnv,
    RepulsiveLoss,
    cli,
)
from torchrl_drpo.evaluation import mean_interval, oracle_reward, random_reward
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.policies import VectorRows, gaussian_actor, make_retrieval_actor, retrieval_policy
from torchrl_drpo.report.methods import SERIES, method
from torchrl_drpo.rewards import (
    cross_fit_bilinear,
    fit_bilinear_reward,
    out_of_fold,
    uphill_actions,
    uphill_log,
)

logging.getLogger("torchrl").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", 'install "ipywidgets"')  # progress bars do without
torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
LOGGED, STEPS, EVALUATE = (3_000, 200, 100) if QUICK else (10_000, 2_000, 100)

scratch = tempfile.TemporaryDirectory()  # everything is written here, and goes with the notebook
os.chdir(scratch.name)


def drpo(arguments):
    """The command line, from Python."""
    assert cli.main(arguments.split()) == 0


# %% [markdown]
# ## The log
#
# `drpo simulate` writes what a recommender would have: rows of item numbers, rewards and user
# states, a table of items with a vector each, and a schema that says which column is what. Nine
# rows in ten show a random item.

# %%
drpo(f"simulate --output recsim.parquet --rows {LOGGED}")
schema = LogSchema.from_json(Path("recsim.schema.json").read_text())
print(f"item: {schema.item}   features: {', '.join(schema.features)}")
print(f"items: {schema.items.path}, vectors in its column {schema.items.embedding!r}")

# %% [markdown]
# `RecReplayBuffer` converts the files once into memory-mapped columns. The last three of the ten
# logged days are held out, as they would be on a real log; all that follows learns from `train`.

# %%
log = RecReplayBuffer.from_parquet("recsim.parquet", schema, root="converted", test_days=3)
train = log.split("train")
print(f"{len(train):,} training rows, {log.num_items:,} items, vectors {log.item_embeddings.shape}")
train[:3].select("action", ("next", "reward"), "observation")

# %% [markdown]
# An `action` is an item number. `features` is the user's state, ten numbers; the history is empty
# (-1 throughout), since this log has no users to follow.
#
# A simulated log also knows what a real one hides: the reward without its noise, here as a label.
# It is used to judge, never to learn. Few rows are good, and more than half of what tells rewards
# apart is noise:

# %%
reward = train[:]["next", "reward"].squeeze(-1)
latent = train.column("latent_reward")
print(f"share of the rewards' variance that is not noise: {latent.var() / reward.var():.0%}")
fig, ax = plt.subplots(figsize=(6, 3))
ax.hist(reward.numpy(), bins=50, color=SERIES[0], label="observed")
ax.hist(latent.numpy(), bins=50, color="black", histtype="step", label="without noise")
ax.set(xlabel="reward", ylabel="rows", title="What the log shows, and what is true")
ax.legend()
plt.show()

# %% [markdown]
# ## One policy, two readings
#
# `make_retrieval_actor` makes a policy that is *served* as one over items: it reads rows of the
# log and gives the item whose vector points where its mean points. `gaussian_actor` gives the same
# network as it is *trained*: a Gaussian over vectors. They share their parameters, so what a loss
# teaches the one, the other serves.
#
# The state that both read (features here; the mean of the history's vectors and context columns
# where a log has them) is fixed: it is calibrated on the training rows once and never learned.


# %%
def new_actor():
    torch.manual_seed(0)  # the same initial network for every objective
    actor = make_retrieval_actor(
        log.num_items,
        log.item_embeddings.shape[1],
        item_vectors=log.item_embeddings,
        history=0,  # rows without users have none
        num_features=len(schema.features),
    )
    retrieval_policy(actor).calibrate(train.batches(1_024))
    return actor


actor = new_actor()
policy = retrieval_policy(actor)
actor.get_dist(train[:3]), gaussian_actor(policy).get_dist(VectorRows(policy)(train[:3]))

# %% [markdown]
# `VectorRows` turns rows for the first reading into rows for the second: the item number becomes
# the item's vector, and the state is written down.

# %%
rows = VectorRows(policy)(train[:])
rows[:3].select("action", "item", "state")

# %% [markdown]
# ## Learning from the good rows
#
# Any loss of the package learns from rows of vectors. The loop is a plain one, and notes what the
# policy is worth to 1,024 new users, by the truth: the latent reward of the item that it serves.

# %%
env = RecSimEnv("table", seed=0)  # the world that the log is from
users = env.draw_states(1_024, seed=2)
interest = env.world.interest(users)  # what they want, hidden from everything that learns
no_history = torch.full((len(users), 1), -1)
arrivals = TensorDict({"observation": {"history": no_history, "features": users}}, [len(users)])


@torch.no_grad()
def serve(actor):
    served = actor(arrivals.clone())
    number = torch.tensor(log.items.decode(served["action"]))  # back to the world's item numbers
    return env.world.latent_reward(interest, number), served["hidden"]


def learn(make_loss, rows):
    actor, curve = new_actor(), []
    loss = make_loss(gaussian_actor(retrieval_policy(actor)))
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(rows)),
        batch_size=320,
        generator=torch.Generator().manual_seed(0),
    )
    buffer.extend(rows)
    for step in range(1, STEPS + 1):
        loss(buffer.sample())["loss_actor"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % EVALUATE == 0:
            curve.append((step, serve(actor)[0].mean().item()))
    return actor, curve


def positive_only(actor):
    return RepulsiveLoss(actor, negative_scale=0.0)  # above average attracts, below is left out


runs = {
    "BC": learn(BehaviorCloningLoss, rows),
    "DRPO": learn(DRPOLoss, rows),
    "positive-only": learn(positive_only, rows),
}
for name, (_, curve) in runs.items():
    print(f"{name:>14}: {curve[-1][1]:.3f}")

# %% [markdown]
# ## What the rows below average know
#
# Positive-only learning leaves out every row below average, which is most of the log. But such a
# row says something: *not in this direction*. Pushing away from it is what makes policies blow up
# (tutorial 03). The recipe lets it teach a reward model instead.
#
# ### A reward model that has not seen the row
#
# The model is bilinear: features of the state times the item's direction, fitted in closed form. On
# a log like this one it also learns the noise of each row, so a row must not be judged by a model
# that saw it. `cross_fit_bilinear` fits one model to the rows of each four fifths of the log, and
# `out_of_fold` asks, for each row, the one that it is not in.

# %%
state, action = rows["state"], rows["action"]
models, fold = cross_fit_bilinear(state, action, reward)
predicted, slope = out_of_fold(models, fold, state, action)
ridge = float(models[0].ridge)  # chosen on rows held out from the first model
seen = fit_bilinear_reward(state, action, reward, ridge=ridge)  # of all rows, for comparison


def explained(prediction, target):
    return (1 - (prediction - target).square().mean() / target.var(correction=0)).item()


print("share of the variance explained     observed reward     true reward")
for name, guess in (("by a model that saw the row", seen(state, action)), ("unseen", predicted)):
    print(f"{name:>28} {explained(guess, reward):>20.1%} {explained(guess, latent):>15.1%}")

# %% [markdown]
# On a real log only the first column is known, and only its second line can be trusted. What a
# model gains by having seen the row is mostly the noise of the row's own reward, learned by heart.
#
# ### Its slope, and better actions
#
# The slope of the prediction is what the model thinks a user wants. `uphill_actions` moves each
# logged action .3 of its length up on average, further where the model is sure.

# %%
moved = uphill_actions(action, slope, step=0.3)
wanted = env.world.interest(rows["observation", "features"])  # the truth again, to judge


def agreement(vectors, wanted=wanted):
    return torch.cosine_similarity(vectors, wanted, dim=-1)


fig, axes = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
image = axes[0].hexbin(predicted, latent, gridsize=40, bins="log", cmap="viridis")
fig.colorbar(image, label="rows")
axes[0].axline((0.2, 0.2), slope=1, color="black", ls=":")
r = torch.corrcoef(torch.stack([predicted, latent]))[0, 1]
axes[0].set(xlabel="predicted reward", ylabel="true reward", title=f"Unseen rows, r = {r:.2f}")
vectors = {"logged action": action, "moved action": moved, "slope": slope}
for (name, value), colour in zip(vectors.items(), SERIES, strict=False):
    label = f"{name}: mean {agreement(value).mean():.2f}"
    axes[1].hist(agreement(value).numpy(), bins=60, alpha=0.6, color=colour, label=label)
axes[1].set(xlabel="cosine to what the user wants", ylabel="rows", title="Where vectors point")
axes[1].set_ylim(top=1.4 * axes[1].get_ylim()[1])  # room for the legend
axes[1].legend()
plt.show()

# %% [markdown]
# The model is too modest about the best rows, but it ranks well, and up is where it says. A moved
# action is an item of no catalogue, something to imitate; what is served is a real item again.
#
# ### The recipe
#
# `uphill_log` is the three calls above in one. The loss stays positive-only, and the rewards stay
# the log's: they still say which rows are good. Where rows of one user resemble each other, give
# `group_key="user"`, so that they stay together in a fold.

# %%
better = uphill_log(rows, observation_key="state")
assert torch.equal(better["action"], moved)
runs["uphill"] = learn(positive_only, better)

# %% [markdown]
# ## Judged by the truth
#
# "Model alone" serves what the reward model prefers: the item nearest to its five slopes' mean.

# %%
with torch.no_grad():
    arriving = policy.states(no_history, features=users)
    favourite = torch.stack([model.slope(arriving) for model in models]).mean(0)
alone = env.world.latent_reward(interest, env.world.retrieve(favourite))
delta = env.setting.delta
served = {name: serve(actor) for name, (actor, _) in runs.items()}
earned = {
    "random": random_reward(interest, env.items, delta=delta),
    **{name: value for name, (value, _) in served.items()},
    "model alone": alone,
    "oracle": oracle_reward(interest, env.items, delta=delta),
}
points = {name: agreement(hidden, interest).mean() for name, (_, hidden) in served.items()}
points["model alone"] = agreement(favourite, interest).mean()
print("                 reward   cosine to what the user wants")
for name, value in earned.items():
    print(f"{name:>14}: {value.mean():>7.3f}   {f'{points[name]:.2f}' if name in points else ''}")

# %%
COLOURS = {name: method(name).colour for name in runs}
fig, axes = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
for name, (_, curve) in runs.items():
    axes[0].plot(*zip(*curve), color=COLOURS[name], label=name)
for name, style in (("oracle", "--"), ("random", ":")):
    axes[0].axhline(earned[name].mean(), color="gray", ls=style, label=name)
axes[0].set(xlabel="gradient steps", ylabel="reward", title="True reward on new users")
axes[0].legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.08))
order = sorted(earned, key=lambda name: earned[name].mean())
heights = [earned[name].mean().item() for name in order]
bars = axes[1].barh(order, heights, color=[COLOURS.get(name, "lightgray") for name in order])
axes[1].bar_label(bars, fmt="%.3f", padding=3)
axes[1].set(xlabel="reward", xlim=(0, 0.55), title="At the end")
plt.show()

# %%
for name in ("BC", "DRPO", "positive-only"):
    gain = mean_interval((earned["uphill"] - earned[name]).tolist())
    print(f"uphill minus {name:>13}: {gain.mean:+.4f} ± {gain.half_width:.4f}")

# %% [markdown]
# These intervals are over users of one world, log and initial network. `results/embedding` repeats
# the comparison with twenty seeds, through the command below, and `results/better` against DRPO
# and 15 other baselines, in two settings and two mixtures. The order there is uphill,
# positive-only, DRPO, BC in all four.
#
# Uphill is also ahead of the model that it learned from, which has one source, its slope. The
# policy has two: which items did well in states like this one, and where the model says up is.

# %%
assert agreement(moved).mean() > agreement(action).mean() + 0.1
assert earned["uphill"].mean() > earned["BC"].mean() + 0.02

# %% [markdown]
# ## When not to use it
#
# **Vectors that do not say what is alike.** The recipe stands on them. Give each item the vector of
# another one, and the reward model explains nothing of the rows that it has not seen. That needs no
# truth to see, so look at it on your own log: `drpo train` says how much its model explains, and
# refuses to follow one that explains nothing.

# %%
shuffled = torch.randperm(log.num_items, generator=torch.Generator().manual_seed(0))
foreign = policy.action_vectors(shuffled[rows["item"]])
unseen, _ = out_of_fold(*cross_fit_bilinear(state, foreign, reward), state, foreign)
print(f"the items' own vectors: {explained(predicted, reward):.1%} of unseen rewards explained")
print(f"    those of others:    {explained(unseen, reward):.1%}")

# %% [markdown]
# **Users with more than one taste.** A Gaussian has one mean. Where a state leaves open which of
# two distant things is wanted, the mean lies between them, and so do the items near it.
#
# **Logs where popularity decides.** Retrieval prefers no item as such. A softmax over item numbers
# learns how often each is wanted, which on a log like KuaiRand is much of what a hit is (README).
# Train `--policy catalogue` beside it and compare on held-out days.
#
# ## All of it in one command
#
# `drpo train --policy embedding` does what this tutorial did: states, vectors, reward model,
# training, and an evaluation on the held-out days. Logs need not fit into memory for it.

# %%
drpo(
    "train --logs recsim.parquet --schema recsim.schema.json --output run"
    " --policy embedding --objectives uphill"
    f" --steps {STEPS} --batch-size 320 --learning-rate 3e-4"
)

# %% [markdown]
# Nine in ten held-out items were shown at random, so nobody hits many; what counts is how much
# oftener the good are hit than the bad. The truth about this policy:

# %%
checkpoint = PolicyCheckpoint.load("run/uphill")
print(f"uphill, by the command: {serve(checkpoint.actor)[0].mean():.3f}")

# %% [markdown]
# A list for a new user, and the policy on the last days of its own log or a later one:

# %%
state = " ".join(f"{number:.3f}" for number in users[0].tolist())
drpo(f"recommend --checkpoint run/uphill --user newcomer --cold-start --k 5 --features {state}")
drpo("evaluate --checkpoint run/uphill --logs recsim.parquet")

# %% [markdown]
# ## Your own log
#
# Name the item table in the schema, with its column of vectors:
# `LogSchema(..., items=ItemTable(path="items.parquet", id="item", embedding="vector"))`. Vectors of
# text or images will do, if items that are near in them are liked by the same people. A log of
# users without such a table gets vectors from who was shown what.
