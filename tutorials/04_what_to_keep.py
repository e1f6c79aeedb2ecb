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
# # Choosing what to keep
#
# Every offline objective here is a rule for the weights $w$ in $-\sum_i w_i \log\pi(a_i|s_i)$: what
# it keeps of a batch, and how strongly. This tutorial looks at the weights themselves, holds the
# exact ones against solvers, and trains with kappa, the fraction that is kept, from .02 to 1 and
# adaptive, on logs in which most rows are fair, few are good, and rewards are nearly all noise.
#
# It needs no GPU and under three minutes; `DRPO_TUTORIAL_QUICK=1` makes it a matter of seconds.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside a checkout
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "torchrl-drpo[cli]"], check=True)

# %%
import logging
import os
import warnings
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import torch
from scipy.optimize import brentq, linprog
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_drpo import (
    AWRLoss,
    BehaviorCloningLoss,
    DRPOLoss,
    ExponentialTaper,
    RecSimEnv,
    RepulsiveLoss,
    make_gaussian_actor,
)  # fmt: skip
from torchrl_drpo.envs.settings import RecSimSetting
from torchrl_drpo.evaluation.simulator import evaluate_policy
from torchrl_drpo.functional import optimistic_dro_weights, select_top
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.trainer import OfflineTrainer
from torchrl_drpo.report.methods import SERIES, method

logging.getLogger("torchrl").setLevel(logging.WARNING)
torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
SEEDS, STEPS, USERS = (range(2), 25, 200) if QUICK else (range(3), 300, 1_000)
KAPPAS = (0.05, 0.2, 1.0) if QUICK else (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# %% [markdown]
# ## Three logs
#
# All are of one simulated catalogue. Of the *medium* log's rows an expert and popularity wrote 70%;
# of the *extreme* one's 90% are random; the *noisy* one is the extreme one with a reward noise of 1
# in place of .13. Observed rewards are cut off at 0 and 1. Each seed has 3,000 rows of its own.

# %%
WORLDS = {"medium": ("medium", 0.13), "extreme": ("extreme", 0.13), "noisy": ("extreme", 1.0)}
logs = {}
for world, (scenario, noise) in WORLDS.items():
    env = RecSimEnv(replace(RecSimSetting.preset("table"), reward_noise=noise), seed=0)
    logs[world] = [
        env.simulate_log(3_000, scenario, seed=1 + seed, propensity=False) for seed in SEEDS
    ]
    seen, true = logs[world][0]["next", "reward"].squeeze(-1), logs[world][0]["latent_reward"]
    print(
        f"{world:>8}: mean latent reward {true.mean():.3f}; it explains"
        f" {torch.corrcoef(torch.stack([seen, true]))[0, 1] ** 2:.0%} of the observed one, which is"
        f" exactly 1 in {(seen == 1).float().mean():.0%} of the rows"
    )

# %% [markdown]
# New users judge a policy by the latent reward of the item that is nearest to its mean action.

# %%
users = env.draw_states(USERS, seed=999)
interest, delta = env.world.interest(users), env.setting.delta
RULES = {
    "bc": BehaviorCloningLoss,
    "awr": AWRLoss,
    "top-fraction": partial(DRPOLoss, kappa=0.2, weighting="uniform"),
    "drpo": partial(DRPOLoss, kappa=0.2),
    "drpo-exponential": partial(DRPOLoss, kappa=0.2, weighting="exponential"),
    "drpo-kl": partial(DRPOLoss, kappa=0.2, weighting="kl"),
    "positive-only": partial(RepulsiveLoss, negative_scale=0.0),
    "tapered": partial(RepulsiveLoss, taper=ExponentialTaper(), remoteness="per_dimension"),
    "signed": RepulsiveLoss,
}


def train(make_loss, world, seed):
    """A policy of one log, the history of its training, and whether its loss has warned."""
    torch.manual_seed(seed)
    actor = make_gaussian_actor(state_dim=10, action_dim=128)
    draws = torch.Generator().manual_seed(seed)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(3_000), generator=draws)
    buffer.extend(logs[world][seed].select("observation", "action", ("next", "reward")))
    config = TrainerConfig(steps=STEPS, learning_rate=1e-3, evaluate_every=STEPS, log_every=10)

    def evaluate(step):
        return evaluate_policy(actor, users, interest, env.items, delta=delta)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = OfflineTrainer(make_loss(actor), buffer, config, evaluate=evaluate).run()
    return actor, history, any("nothing to learn" in str(each.message) for each in told)


# %% [markdown]
# ## What weighs how much
#
# `reduction="none"` gives the loss row by row; over the negative log-probability that is the
# weight. Here of 320 rows of the extreme log, at a policy that positive-only learning has trained
# on them (a taper looks at the policy, the other rules at rewards alone).

# %%
policy = train(RULES["positive-only"], "extreme", 0)[0]
batch = logs["extreme"][0][:320]
quality = batch["next", "reward"].squeeze(-1).double()
log_prob = policy.get_dist(batch).log_prob(batch["action"])


def weights(make_loss):
    loss = make_loss(policy, reduction="none")
    return (loss(batch)["loss_actor"] / -log_prob).detach().double()


fig, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
for place, (key, make_loss) in enumerate(RULES.items()):
    weight, shown = weights(make_loss)[quality.argsort(descending=True)], method(key)
    line = "." if key == "tapered" else "--" if key in ("top-fraction", "signed") else "-"
    relative = 320 * weight / weight.clamp_min(0).sum()
    axes[place // 6].plot(relative, line, ms=3, color=shown.colour, label=shown.name)
ticks = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
axes[0].set_yscale("symlog", linthresh=1)
axes[0].set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
axes[0].set(ylabel="weight (of all that attracts: mean 1)", title="Of the best 20%, and of all")
axes[1].set(title="Around the batch's mean")
axes[1].axhline(0, color="black", lw=0.6)
for ax in axes:
    ax.set(xlabel="rank of the row by its reward, best first (of 320)")
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# * BC takes every row, AWR at its default temperature of 1 nearly so.
# * A hard filter takes the best 64: alike (*uniform*), by how far they lie above the worst of them
#   (DRPO), or by an exponential, which at the paper's temperature of .05 lives on a handful.
# * The exact weights with a KL penalty, of that temperature, too, are flat where they reach their
#   cap of 1 / kappa, and fade below without an edge.
# * Positive-only learning takes what is above the mean. The signed loss (APG) also repels the rest;
#   a taper weakens that, row by row, by how far the policy is from it.
#
# ## Against solvers
#
# The uniform filter solves a linear program, the most favourable distribution that the log can
# contain: the largest mean of $w R$ with $0 \le w \le 1/\kappa$ and mean $w = 1$. With a KL penalty
# one number is left to find, the level at which the mean of $w$ is 1. `scipy` does both:

# %%
for kappa in (0.07, 0.2, 0.5):
    equal = {"A_eq": torch.full((1, 320), 1 / 320).numpy(), "b_eq": [1.0]}
    found = linprog((-quality / 320).numpy(), **equal, bounds=(0, 1 / kappa))
    exact = optimistic_dro_weights(quality, kappa)
    step = weights(partial(DRPOLoss, kappa=kappa, weighting="uniform"))
    worth = -found.fun, (exact * quality).mean(), (step * quality).sum() / step.sum()
    print(
        f"kappa {kappa}: mean reward {worth[0]:.4f} by the solver, {worth[1]:.4f} in closed form,"
    )
    print(f"  {worth[2]:.4f} of the {step.sum():g} rows that a training step keeps")
    torch.testing.assert_close(exact, torch.as_tensor(found.x), atol=1e-5, rtol=0)


def penalised(level, cap=1 / 0.2, temperature=0.05):
    return ((quality - level) / temperature).exp().clamp_max(cap)


level = brentq(lambda level: penalised(level).mean().item() - 1, -1, 2)
torch.testing.assert_close(weights(RULES["drpo-kl"]), penalised(level), atol=1e-3, rtol=1e-3)
print(f"with the penalty: level {level:.4f}, {(penalised(level) == 5).sum()} rows at the cap of 5")

# %% [markdown]
# A step keeps a whole number of rows, where the program takes .4 of one at kappa .07.
#
# ## How much to keep
#
# Now kappa from .02 to 1 with linear and with uniform weights; the adaptive rule, which moves kappa
# by 2% a step until the kept rows are half as spread out as the batch; and all rules of above.

# %%
grid = {(key, ""): make_loss for key, make_loss in RULES.items()} | {
    (key, kappa): partial(DRPOLoss, kappa=kappa, weighting=weighting)
    for key, weighting in (("drpo", "linear"), ("top-fraction", "uniform"))
    for kappa in KAPPAS
}
grid["drpo", "adaptive"] = DRPOLoss
runs = {
    (world, *which): [train(make_loss, world, seed)[1:] for seed in SEEDS]
    for world in WORLDS
    for which, make_loss in grid.items()
}
got = {
    which: torch.tensor([history.last("retrieved_reward") for history, _ in found])
    for which, found in runs.items()
}
chosen = {}  # kappa at every tenth step, by seed
for world in WORLDS:
    kappas = [history.training["kappa"] for history, _ in runs[world, "drpo", "adaptive"]]
    chosen[world] = torch.tensor([[kappa for _, kappa in run] for run in kappas])

# %%
fig, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)
for ax, world in zip(axes, WORLDS):
    for key, line in {"drpo": "o-", "top-fraction": "s--"}.items():
        values = torch.stack([got[world, key, kappa] for kappa in KAPPAS])
        colour, label = method(key).colour, "linear" if key == "drpo" else "uniform"
        ax.plot(KAPPAS, values.mean(1), line, ms=4, color=colour, label=f"{label} weights")
        ax.fill_between(KAPPAS, values.amin(1), values.amax(1), color=colour, alpha=0.2, lw=0)
    value = got[world, "drpo", "adaptive"]
    spread = [[value.mean() - value.min()], [value.max() - value.mean()]]
    star = {"fmt": "*", "ms": 11, "color": method("drpo").colour, "mec": "black", "ecolor": "black"}
    label = "linear, adaptive: at its last kappa"
    ax.errorbar(chosen[world][:, -1].mean(), value.mean(), yerr=spread, label=label, **star)
    logged = torch.stack([log["latent_reward"].mean() for log in logs[world]]).mean()
    ax.axhline(logged, color="black", lw=0.8, ls=":", label="the log's own mean")
    ax.set(xscale="log", xlabel="fraction kept, kappa", title=f"{world} log")
    ax.set_xticks(KAPPAS, labels=[f"{kappa:g}" for kappa in KAPPAS])
    ax.minorticks_off()
axes[0].set_ylabel("reward of the retrieved item, 0 to 1")
axes[0].legend(fontsize=8)
plt.show()

print(f"{'':>24}" + "".join(f"{world:>22}" for world in WORLDS))
for key, kappa in [(key, "") for key in RULES] + [("drpo", "adaptive")]:
    row = [got[world, key, kappa] for world in WORLDS]
    cells = "".join(f"{f'{x.mean():.3f} ({x.min():.3f}-{x.max():.3f})':>22}" for x in row)
    print(f"{method(key).name + ', adaptive' * (kappa == 'adaptive'):>24}{cells}")
warned = [which for which, found in runs.items() if all(told for _, told in found)]
print(f"mean (range) of {len(SEEDS)} seeds; kappa is .2 where none is named")
print("nothing to learn from:", *(f"{key} {kappa} ({world});" for world, key, kappa in warned))

# %% [markdown]
# * **Too few and too many.** Below .05 rows are lacking, whatever they weigh. At 1 uniform weights
#   are BC, which imitates the extreme log's random rows with the others; linear ones fade towards
#   the worst row by themselves, want a larger kappa, and forgive one that is too large.
# * **Adaptive is a fixed fraction that nobody chose.** The star lies near the curve of linear
#   weights, where the rule came to rest, and in the first two logs that is left of the curve's top.
# * **A soft edge spares the choice.** Exact KL weights and positive-only learning are at or near
#   the top of the first two columns. DRPO-Exp is far below: it learns from a handful of rows. APG
#   is below BC: it runs away ([the curse of repulsion](03_repulsion.ipynb)).
# * **Where rewards are noise, nothing is to be filtered.** A fifth of the noisy log's rows earned
#   exactly 1: with a smaller kappa uniform weights share the places among these, and linear ones
#   are all 0. The loss warns, and the policy stays what it was. No rule is clearly better than all
#   rows alike.
#
# ## What the adaptive rule looks at
#
# At two standard deviations of observed rewards, of the kept rows and of all. Where their ratio
# passes one half can be read off a log before anything is trained:

# %%
fig, axes = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
for world, colour in zip(WORLDS, SERIES):
    values, steps = chosen[world], 10 * torch.arange(1, chosen[world].shape[1] + 1)
    axes[0].plot(steps, values.mean(0), color=colour, label=f"{world} log")
    axes[0].fill_between(steps, values.amin(0), values.amax(0), color=colour, alpha=0.2, lw=0)
    fractions = torch.linspace(0.02, 1, 99)
    tops = [select_top(logs[world][0]["next", "reward"], kappa.item()) for kappa in fractions]
    ratio = [top.kept_std / top.batch_std for top in tops]
    axes[1].plot(fractions, ratio, color=colour, label=f"{world} log")
axes[0].set(xlabel="optimiser steps", ylabel="kappa", title="What it chose", ylim=(0, None))
axes[1].axhline(0.5, color="black", lw=0.8, ls=":", label="the rule's target")
axes[1].set(xlabel="fraction kept, kappa", ylabel="std of kept rewards / of all", title="Why")
for ax in axes:
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# On the noisy log the largest rewards are all equal, a reason for the rule to keep more; on the
# extreme one few rows stand far above the rest, so it keeps less. Neither says whether a high
# reward means a good item. On a log of your own draw this curve: where it passes one half at a
# kappa that leaves few rows, give the rule a floor (`AdaptiveKappa(bounds=(0.2, 1.0))`), or kappa a
# number.
#
# ## Which when
#
# * **Rewards mean something, most rows are poor**: positive-only or exact KL weights; a filter of
#   .1 to .5, uniform rather at its lower end, linear at its upper.
# * **Tapers** use the poor rows, too; what that adds here is small, and their strength is to be
#   chosen ([Tapers](../docs/concepts/tapers.md)).
# * **Rewards are mostly noise**: all rows, or AWR. A reward model that explains nothing of rewards
#   it has not seen says that you are there; `drpo train` fits one and tells you.
#
# These are Gaussians over item vectors on a simulator. [Which objective
# when](../docs/which_objective.md) has what real logs say, where other rules win; [Optimistic DRO
# and kappa](../docs/concepts/optimistic_dro.md) has the formulas.

# %%
assert ("noisy", "drpo", 0.05) in warned
assert all(world == "noisy" for world, *_ in warned)
if not QUICK:
    mean = {which: values.mean() for which, values in got.items()}
    assert chosen["extreme"][:, -1].max() < chosen["medium"][:, -1].min()
    assert chosen["medium"][:, -1].max() < chosen["noisy"][:, -1].min()
    for world in ("medium", "extreme"):
        adaptive = mean[world, "drpo", "adaptive"]
        assert mean[world, "drpo", 0.02] < adaptive < mean[world, "drpo", 0.5]
        assert mean[world, "signed", ""] < mean[world, "bc", ""]
        assert mean[world, "drpo-exponential", ""] < adaptive
        assert min(mean[world, "drpo-kl", ""], mean[world, "positive-only", ""]) > adaptive
    assert got["extreme", "top-fraction", 0.1].min() > got["extreme", "bc", ""].max()
