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
# # A million items on one machine
#
# What grows with the catalogue, and what is done about it on one core, without a GPU: a training
# step that never holds a score for every row and item, rows of weight zero that cost nothing, a
# policy over a million items that can recommend items which no row has shown, and lists for a
# thousand users, by exact search and by an index.
#
# It needs no GPU, under three minutes and about 2 GB of memory; `DRPO_TUTORIAL_QUICK=1` takes
# 50,000 items and makes it a matter of seconds. The last part wants faiss (`pip install
# 'torchrl-drpo[faiss]'`) and is left out without it.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside a checkout
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "torchrl-drpo[cli]"], check=True)

# %%
import json
import os
import resource
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from torchrl_drpo import DRPOLoss, MIPSDecoder, make_catalogue_actor
from torchrl_drpo.evaluation import mean_interval
from torchrl_drpo.policies.decoding import FaissDecoder
from torchrl_drpo.report.methods import SERIES, method

torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
ITEMS, STEPS, USERS = (50_000, 20, 100) if QUICK else (1_000_000, 40, 1_000)
ROWS, WIDTH, HISTORY = (320 if QUICK else 128), 64, 10
KINDS, FEATURES = 100, 32

# %% [markdown]
# ## What a step holds, and what it costs
#
# A softmax over V items wants, of each of N rows, V scores: as many as `dense` below makes, which
# asks the distribution for its `logits`. `DRPOLoss` asks it for `log_prob` instead, which goes over
# the catalogue in tiles and makes the scores once more in the backward pass. Both are one policy
# and one loss. Each runs in a process of its own, and what is reported is how far the step raised
# that process's peak, and its processor time.

# %%
STEP = """
import json, os, resource, sys, time
import torch
from tensordict import TensorDict
from torchrl_drpo import DRPOLoss, make_catalogue_actor
from torchrl_drpo.functional import select_top

items, width, history = map(int, sys.argv[2:])
torch.set_num_threads(1)

def peak():  # MiB that this process has held at most
    try:
        lines = open("/proc/self/status").read().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 2**10
    except FileNotFoundError:  # macOS, where it is in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

def loss_of(how, kappa, rows, items):
    torch.manual_seed(0)
    actor = make_catalogue_actor(items, dim=width, history=history, bias=False)
    seen = {"history": torch.randint(items, (rows, history))}
    action, quality = torch.randint(items, (rows,)), torch.rand(rows)
    rewards = {"action": action, "next": {"reward": quality.unsqueeze(1)}}
    batch = TensorDict({"observation": seen, **rewards}, [rows])
    if how == "streamed":
        loss = DRPOLoss(actor, kappa=kappa)
        return lambda: loss(batch)["loss_actor"]
    def dense():
        top = select_top(quality, kappa)
        weight = (quality - top.threshold).clamp_min(0) / top.kept_std
        log_prob = actor.get_dist(batch).logits[torch.arange(rows), action]
        return -(weight * log_prob).sum() / top.quota
    return dense

for way in json.loads(sys.argv[1]):
    if os.fork() == 0:  # a process of its own for each
        loss_of(*way, 100)().backward()  # whatever a first step brings into memory for good
        loss = loss_of(*way, items)
        before, start = peak(), time.process_time()
        value = loss()
        value.backward()
        found = value.item(), peak() - before, time.process_time() - start
        print(json.dumps(found), flush=True)
        os._exit(0)
    os.wait()
"""
ways = [("dense", kappa, ROWS) for kappa in (1.0, 0.1)]
ways += [("streamed", kappa, rows) for rows in (ROWS, 8 * ROWS) for kappa in (1.0, 0.1)]
sizes = map(str, (ITEMS, WIDTH, HISTORY))
command = [sys.executable, "-c", STEP, json.dumps(ways), *sizes]
told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
steps = dict(zip(ways, map(json.loads, told.splitlines())))
value, memory, seconds = ({way: found[i] for way, found in steps.items()} for i in range(3))
gradient = ITEMS * WIDTH * 4 / 2**20
print(f"{ITEMS:,} items of width {WIDTH}; the table's gradient is {gradient:.0f} MiB")
names = [f"{how}, {rows:,} rows, kappa {kappa:g}" for how, kappa, rows in ways]
for name, way in zip(names, ways):
    print(f"{name:>30}: loss {value[way]:.4f}, {memory[way]:5,.0f} MiB, {seconds[way]:5.2f} s")
less = [
    seconds["streamed", 1.0, rows] / seconds["streamed", 0.1, rows] for rows in (ROWS, 8 * ROWS)
]
print(f"kappa .1 against 1: {less[0]:.1f} times less time, with more rows {less[1]:.1f} times")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained", sharey=True)
labels = "peak memory that a step adds, MiB", "processor time of a step, s"
for ax, found, label in zip(axes, (memory, seconds), labels):
    ax.barh(names, found.values(), color=[SERIES[way[0] == "streamed"] for way in ways])
    ax.set(xlabel=label)
axes[0].invert_yaxis()
axes[0].axvline(gradient, color="black", ls=":", label="the item table's gradient")
axes[0].legend(fontsize=8, loc="center right")
plt.show()

# %%
for kappa in (1.0, 0.1):  # one loss, to rounding
    assert abs(value["dense", kappa, ROWS] / value["streamed", kappa, ROWS] - 1) < 1e-4
assert less[1] > 3
if not QUICK:
    assert memory["dense", 1.0, ROWS] > 3 * memory["streamed", 1.0, ROWS]
    assert memory["streamed", 1.0, 8 * ROWS] < 1.5 * gradient

# %% [markdown]
# Streamed, a step adds the gradient of the item table and next to nothing else, however many rows
# it has. The dense way holds the scores of all rows twice over besides, whatever they weigh. Tiles
# save memory; work is saved by kappa: the policy sees the kept rows only, and nine rows of ten cost
# no scores, no softmax and no backward pass. What does not shrink with kappa is the gradient of all
# item vectors, which is written whatever the rows are: the more rows a batch has, the less that
# counts.
#
# ## A log in which nearly no item is seen
#
# 100,000 rows of a million items: most items have no row, and a vector of their own would stay
# where it was drawn. So item vectors are made of what is known of an item, here 32 numbers
# (`item_table="features"`); an embedding of a text or an image would do, or semantic IDs. The log
# is made up: items are of 100 kinds, a user likes two of them, and one row in ten shows an item of
# the kind that the user likes most, the others a random one. The reward is how well the item fits,
# with noise.

# %%
draw = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=draw)


def integers(below: int, *shape: int) -> torch.Tensor:
    return torch.randint(below, shape, generator=draw)


centres = F.normalize(normal(KINDS, FEATURES), dim=-1)
features = F.normalize(centres[torch.arange(ITEMS) % KINDS] + 0.1 * normal(ITEMS, FEATURES), dim=-1)


def people(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tastes [count, FEATURES], histories [count, HISTORY], and an item that each would like."""
    most, also = integers(KINDS, 2, count)
    kinds = torch.stack([also] * 3 + [most] * (HISTORY - 3), 1)
    past = kinds + KINDS * integers(ITEMS // KINDS, count, HISTORY)
    liked = most + KINDS * integers(ITEMS // KINDS, count)
    return F.normalize(centres[most] + 0.5 * centres[also], dim=-1), past, liked


def fit(taste: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """How well items [N, k] fit, from -1 to 1."""
    return (taste.unsqueeze(1) * features[items]).sum(-1)


taste, past, liked = people(100_000)
shown = torch.where(torch.rand(100_000, generator=draw) < 0.1, liked, integers(ITEMS, 100_000))
worth = fit(taste, shown.unsqueeze(1))
reward = worth + 0.1 * normal(100_000, 1)
log = TensorDict(
    {"observation": {"history": past}, "action": shown, "next": {"reward": reward}}, [100_000]
)
print(f"{len(shown.unique()):,} of {ITEMS:,} items have a row; the mean fit is {worth.mean():.3f}")

# %% [markdown]
# ## Training

# %%
torch.manual_seed(0)
actor = make_catalogue_actor(
    ITEMS, dim=WIDTH, history=HISTORY, bias=False, item_table="features", item_data=features
)
loss = DRPOLoss(actor, kappa=0.1)
optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
taste, past, _ = people(USERS)  # new ones
users = TensorDict({"observation": {"history": past}}, [USERS])


def lists() -> torch.Tensor:
    """The ten likeliest of all items for each of the users, tile by tile."""
    with torch.no_grad():
        return actor.get_dist(users).topk(10).indices


untrained = lists()
start = time.process_time()
for _ in range(STEPS):
    loss(log[integers(len(log), 320)])["loss_actor"].backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"{STEPS} steps of 320 rows: {(time.process_time() - start) / STEPS:.2f} s each")

# %%
start = time.process_time()
trained = lists()
each = 1e3 * (time.process_time() - start) / USERS
print(f"exact lists of {USERS:,} users: {each:.1f} ms each")
for name, items in {"untrained": untrained, "trained": trained}.items():
    found = mean_interval(fit(taste, items).mean(1).tolist())
    print(f"{name:>9}: fit {found.mean:.3f} ± {found.half_width:.3f} (95%, over users)")
unseen = 1 - torch.isin(trained, shown).float().mean().item()
print(f"{unseen:.0%} of the trained policy's places go to items without a row")

# %%
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
bins = torch.linspace(-1, 1, 61).numpy()
best = worth[reward >= reward.quantile(0.9)]
groups = {
    "rows of the log": (worth, "#999999"),
    "its best tenth by reward": (best, SERIES[1]),
    "lists of DRPO": (fit(taste, trained), method("drpo").colour),
}
for name, (values, colour) in groups.items():
    drawn = {"histtype": "step", "lw": 1.5, "density": True}
    ax.hist(values.flatten().numpy(), bins=bins, color=colour, label=name, **drawn)
ax.axvline(worth.mean(), color="black", ls=":", label="the log's own mean")
ax.set(xlabel="how well an item fits its user, -1 to 1", ylabel="density")
ax.legend(fontsize=8, loc="upper left")
plt.show()

# %%
assert fit(taste, trained).mean() > 2 * worth.mean() > 2 * fit(taste, untrained).mean()

# %% [markdown]
# A few dozen steps, and the lists fit new users several times better than the log's rows do; most
# of their places go to items that no row has shown. The best tenth of the log by reward is nearly
# all of the kind that a user likes most, to the right. The lists have most of their places there,
# and the others around .45, where the kind lies that a user likes second and that a policy takes
# from the history.
#
# ## By an index
#
# Exact search compares a state with every item. An index of faiss looks into the lists that seem
# near, and misses what lies elsewhere; `FaissDecoder` measures against the exact search how much.
# The number of its lists grows with the root of the number of items, and so the time to build it
# faster than the catalogue: here it is shown on a tenth.

# %%
SOME = ITEMS // 10
with torch.no_grad():
    policy = actor.get_dist(users)
    states, vectors = policy.hidden, policy.items[:SOME].clone()
start = time.process_time()
MIPSDecoder(vectors).decode(states, 10)
print(f"exact, {SOME:,} items: {1e3 * (time.process_time() - start) / USERS:.2f} ms a user")
if importlib.util.find_spec("faiss") is None:
    print("faiss is not installed, and the index left out")
else:
    for nprobe in (1, 4, 32):
        start = time.process_time()
        index = FaissDecoder(vectors, "ivf", nprobe=nprobe, sample=states)
        built, start = time.process_time() - start, time.process_time()
        index.decode(states, 10)
        took = 1e3 * (time.process_time() - start) / USERS
        recall = index.recall.value
        print(
            f"  ivf, {nprobe:>2} lists looked into: recall@10 {recall:.3f}, {took:.3f} ms a user,"
        )
        print(f"    {built:.1f} s to build")
    assert recall > 0.9  # with the most lists

whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
held = max(resource.getrusage(who).ru_maxrss for who in whose)
held /= 2**30 if sys.platform == "darwin" else 2**20
print(f"the largest process of this notebook held {held:.1f} GiB")
assert held < 4

# %% [markdown]
# With 32 lists the index finds nearly what the exact search does in a fraction of its time; with
# one it misses most. How many lists are enough depends on the vectors and on the policy's states,
# so measure on these: `drpo recommend --index ivf` does, and `FaissDecoder` falls back on the exact
# search where an index finds too few.
#
# ## Larger still
#
# * The item table, its gradient and Adam's moments can be shared out among processes ([two
#   processes](10_two_processes.ipynb)).
# * Codes in place of a table: a policy over semantic IDs has a few hundred vectors a level,
#   whatever the catalogue ([generative policies](../docs/generative.md)).
# * `drpo cost --ranks 64 --items 10000000` says on paper what a step would hold and take.
#   [Scale](../docs/concepts/scale.md) has what grows with what, [Speed and
#   memory](../docs/speed.md) what was measured, [Serving](../docs/results/serving.md) what a list
#   costs.
