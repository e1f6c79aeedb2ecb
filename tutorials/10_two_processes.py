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
# # Two processes
#
# A batch's best tenth is not the best tenth of each half. Where a batch is shared out among
# processes, whatever is a number of the batch (a quota, a threshold, a standard deviation, kappa)
# has to be that of all its rows. This tutorial starts two ranks on one machine by `torchrun`, over
# gloo, and shows what is kept with and without `over=`, that the gradient is that of one process,
# what each rank holds of a shared item table, and that `drpo train` gives the table of one process.
#
# It needs no GPU, two cores better than one, and about a minute; `DRPO_TUTORIAL_QUICK=1` takes half
# of that, most of it the start of processes.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside a checkout
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "torchrl-drpo[cli]"], check=True)

# %%
import csv
import json
import logging
import os
import random
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from torchrl_drpo import DRPOLoss, LogSchema, RecSimEnv, cli, make_gaussian_actor
from torchrl_drpo.functional import select_top
from torchrl_drpo.report.methods import SERIES, method

logging.getLogger("torchrl").setLevel(logging.WARNING)
torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
ITEMS, STEPS = (100_000, 20) if QUICK else (500_000, 200)
KAPPA = 0.1

scratch = tempfile.TemporaryDirectory()  # everything is written here, and goes with the notebook
os.chdir(scratch.name)


def torchrun(*arguments: str) -> str:
    """What two ranks on this machine print; their errors are raised."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # a core for each
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, env=alone)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


# %% [markdown]
# ## A batch in two halves
#
# 640 rows of the simulator: rank 0 has 320 of its medium log, rank 1 has 320 of its extreme one, in
# which nine rows of ten are random. Such halves are common: files by day, by country, by shop.

# %%
env = RecSimEnv("table", seed=0)
halves = [
    env.simulate_log(320, scenario, seed=1, propensity=False) for scenario in ("medium", "extreme")
]
batch = torch.cat(halves).select("observation", "action", ("next", "reward")).double()
torch.save(batch.to_dict(), "batch.pt")

# %% [markdown]
# ## What the ranks do
#
# One file, the same for both. It asks for the loss twice, with `over=` and, for comparison,
# without; the gradient is averaged over ranks, which is what DDP, FSDP2 and others do for you. In
# the second part the ranks share out an item table, `mesh=`, take one step of Adam, and look at
# what the process has grown by; then rank 0 does the same with the whole table.

# %%
Path("ranks.py").write_text("""
import ctypes
import sys
import torch
from tensordict import TensorDict
from torch import distributed
from torchrl_drpo import DRPOLoss, make_catalogue_actor, make_gaussian_actor
from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.selection import select_top_over

kappa, items = float(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo")
world, rank = distributed.group.WORLD, distributed.get_rank()
rows = TensorDict(torch.load("batch.pt", weights_only=True), [640])[320 * rank : 320 * (rank + 1)]
found = {}
for name, over in (("global", world), ("local", None)):
    torch.manual_seed(0)
    actor = make_gaussian_actor(state_dim=10, action_dim=128).double()
    loss = DRPOLoss(actor, kappa=kappa, over=over, functional=False)
    out = loss(rows)
    out["loss_actor"].backward()
    gradient = torch.cat([p.grad.flatten() for p in loss.parameters()])
    distributed.all_reduce(gradient)
    found[name] = {"loss": out["loss_actor"].detach(), "gradient": gradient / 2}
    found[name] |= {"threshold": out["threshold"]}
quality = rows["next", "reward"].squeeze(-1)
found["mass"] = select_top_over(Ranks(world), quality, kappa).mass

def held():  # MiB; what malloc keeps of freed blocks goes first
    ctypes.CDLL(None).malloc_trim(0)
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 2**10

def grown(items, mesh):
    before = held()
    torch.manual_seed(0)
    actor = make_catalogue_actor(items, dim=64, history=5, mesh=mesh)
    loss = DRPOLoss(actor, kappa=kappa, over=mesh, functional=False)
    seen = {"history": torch.randint(items, (64, 5))}
    rewards = {"action": torch.randint(items, (64,)), "next": {"reward": torch.rand(64, 1)}}
    optimizer = torch.optim.Adam(loss.parameters(), foreach=False)
    loss(TensorDict({"observation": seen, **rewards}, [64]))["loss_actor"].backward()
    optimizer.step()
    return held() - before, (loss, optimizer)

alone = distributed.new_group([0])
if sys.platform == "linux":
    grown(100, world)  # whatever a first step brings into memory for good
    found["shared"], kept = grown(items, world)
    if rank == 0:
        found["whole"], kept_too = grown(items, alone)
torch.save(found, f"rank{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
""")
torchrun("ranks.py", str(KAPPA), str(ITEMS))
ranks = [torch.load(f"rank{rank}.pt", weights_only=True) for rank in range(2)]

# %% [markdown]
# ## What is kept

# %%
quality = batch["next", "reward"].squeeze(-1)
one = select_top(quality, KAPPA)  # of all rows, in this process
own = [select_top(half, KAPPA) for half in quality.split(320)]
together = torch.cat([rank["mass"] for rank in ranks])
separate = torch.cat([top.mass for top in own])
for name, mass in {"one process": one.mass, "over=": together, "each its own": separate}.items():
    first, second = (int(part.sum()) for part in mass.split(320))
    worth = (mass * quality).sum() / mass.sum()
    print(f"{name:>13}: {first:2} rows of rank 0, {second:2} of rank 1; mean reward {worth:.4f}")
differ = int((one.mass != separate).sum())
print(f"kept by one rule and not by the other: {differ} rows")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained", sharex=True, sharey=True)
for rank, (ax, half) in enumerate(zip(axes, quality.split(320))):
    ax.hist(half, bins=torch.linspace(0, 1, 41), color=SERIES[3])
    ax.axvline(one.threshold, color=method("drpo").colour, label="threshold of all rows: over=")
    label = "threshold of the rank's own rows"
    ax.axvline(own[rank].threshold, color=SERIES[1], ls="--", label=label)
    ax.axvline(half.mean(), color="black", ls=":", lw=0.8, label="mean of the rank's rows")
    ax.set(xlabel="observed reward, 0 to 1", title=f"rank {rank}")
axes[0].set_ylabel("rows")
axes[0].legend(fontsize=8)
plt.show()

# %%
assert torch.equal(together, one.mass)  # bit for bit
assert all(rank["global"]["threshold"] == one.threshold for rank in ranks)
assert differ > 0
assert all(rank["local"]["threshold"] == top.threshold for rank, top in zip(ranks, own))

# %% [markdown]
# With `over=` the ranks keep the rows that one process keeps, bit for bit, and as few of the poorer
# half as there are worth keeping: the ranks tell each other a few histograms and sums, never their
# rows. Without it each keeps a tenth of its own rows: rank 0 drops good rows to take no more than
# its quota, rank 1 fills its own with rows that the batch would not have kept. Nothing fails, and
# no loss looks wrong; it is another objective, whose result depends on how many processes there are
# and on who reads which file.
#
# ## The gradient

# %%
torch.manual_seed(0)
loss = DRPOLoss(
    make_gaussian_actor(state_dim=10, action_dim=128).double(), kappa=KAPPA, functional=False
)
value = loss(batch)["loss_actor"]
value.backward()
gradient = torch.cat([p.grad.flatten() for p in loss.parameters()])
print(f"loss of one process {value:.10f}, over two ranks {ranks[0]['global']['loss']:.10f}")
for name, label in {"global": "over=", "local": "each its own"}.items():
    gap = (ranks[0][name]["gradient"] - gradient).norm() / gradient.norm()
    print(f"{label:>13}: the gradient differs by {gap:.1e} of its length")

# %%
torch.testing.assert_close(ranks[0]["global"]["gradient"], gradient, rtol=1e-9, atol=1e-12)
torch.testing.assert_close(ranks[0]["global"]["loss"], value.detach(), rtol=1e-12, atol=0)
assert (ranks[0]["local"]["gradient"] - gradient).norm() > 0.01 * gradient.norm()

# %% [markdown]
# ## What a rank holds
#
# Table, gradient and Adam's two moments are four tables of V rows of 64 numbers and a bias; shared
# out, each rank has half of each.

# %%
if sys.platform == "linux":
    paper = 4 * ITEMS * 65 * 4 / 2**20
    print(f"{ITEMS:,} items. On paper: {paper:.0f} MiB, {paper / 2:.0f} for each of two ranks")
    print(f"measured: {ranks[0]['whole']:.0f} MiB with the whole table; shared out")
    print(
        " and ".join(
            f"{rank['shared']:.0f} MiB of rank {place}" for place, rank in enumerate(ranks)
        )
    )
    assert QUICK or max(rank["shared"] for rank in ranks) < 0.65 * ranks[0]["whole"]

# %% [markdown]
# ## The command
#
# `drpo train` needs nothing but `torchrun` before it. A made-up log: 300 people, 200 items, some of
# which are better than others, and a click or none.

# %%
made = random.Random(0)
worth = [made.random() for _ in range(200)]
with open("log.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["user", "item", "time", "click"])
    for user in range(300):
        for place in range(30):
            item = int(200 * made.random() ** 2)
            writer.writerow(
                [user, item, 3_600 * (30 * place + user), int(made.random() < worth[item])]
            )
schema = LogSchema(user="user", item="item", time="time", quality="click", duplicates="keep")
Path("schema.json").write_text(schema.to_json())
train = (
    "train --logs log.csv --schema schema.json --test-share 0.2 --objectives bc drpo positive-only"
    f" --steps {STEPS} --batch-size 255 --output"
).split()
assert cli.main([*train, "alone"]) == 0

# %%
torchrun("-m", "--", "torchrl_drpo.cli", *train, "ranks")  # rank 0 says the same once more
results = {name: json.loads(Path(name, "results.json").read_text()) for name in ("alone", "ranks")}


def curve(run: str, objective: str) -> list[list[float]]:
    return json.loads(Path(run, "runs", f"{objective}-0.json").read_text())["curve"]["loss_actor"]


fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for objective in ("bc", "drpo", "positive-only"):
    shown = method(objective)
    first, second = (found["summary"][objective] for found in results.values())
    same = sum(first[metric] == second[metric] for metric in first)
    one, two = (torch.tensor(curve(run, objective)) for run in ("alone", "ranks"))
    gap = (two[:, 1] / one[:, 1] - 1).abs().max()
    print(
        f"{shown.name:>14}: HR@50 of the best rows {first['hr@50_best']['mean']:.4f} alone and"
        f" {second['hr@50_best']['mean']:.4f} by two ranks; {same} of {len(first)} metrics to the"
        f" last digit; the loss to {gap:.1e} of its size"
    )
    assert abs(first["hr@50_best"]["mean"] - second["hr@50_best"]["mean"]) < 0.01
    assert gap < 1e-3
    ax.plot(*one.T, color=shown.colour, label=f"{shown.name}, one process")
    ax.plot(*two.T, "o", ms=4, color=shown.colour, label="two ranks")
ax.set(xlabel="optimiser steps", ylabel="loss, weights times nats")
fig.legend(loc="outside right center", fontsize=8)
plt.show()

# %% [markdown]
# The same table, and the loss of every line to rounding: rank 0 converts, evaluates, writes and
# speaks, the other trains along. A run that is killed resumes at another number of ranks. In your
# own loop it is `DRPOLoss(actor, over=mesh)`, `OfflineTrainer(..., mesh=mesh)`, and
# `make_catalogue_actor(..., mesh=mesh)` for a table that is too large for one.
#
# Two processes on one machine are there for you to see that. [Many processes](../docs/processes.md)
# has what was measured with four, and `drpo cost` says on paper what a step would take on many
# GPUs.
