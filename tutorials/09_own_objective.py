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
# # An objective of your own, in ten lines
#
# An offline objective of this package is its rule for the weights $w$ in
# $-\sum_i w_i \log\pi(a_i|s_i) / \sum_i m_i$, and nothing else: masks, keys, reductions, rows of
# weight zero that cost nothing, ranks and TorchRL's `Trainer` are the base class's affair. Here a
# rule is written, held against its closed form, and trained on a log beside two others.
#
# It needs no GPU and about a minute; `DRPO_TUTORIAL_QUICK=1` makes it a matter of seconds.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside a checkout
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "torchrl-drpo[cli]"], check=True)

# %%
import logging
import os

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.modules import ProbabilisticActor

from torchrl_drpo import (
    BehaviorCloningLoss,
    DRPOLoss,
    DRPOTrainer,
    RecReplayBuffer,
    RecSimEnv,
    make_gaussian_actor,
)
from torchrl_drpo.evaluation.simulator import evaluate_policy
from torchrl_drpo.objectives.advantage import AdvantageLoss
from torchrl_drpo.objectives.weighted import Weighting
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.report.methods import OWN, method

logging.getLogger("torchrl").setLevel(logging.WARNING)
torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
SEEDS = range(2) if QUICK else range(3)
STEPS = 100 if QUICK else 500

# %% [markdown]
# ## The rule
#
# A soft filter: a row counts by the logistic function of how far it lies above the batch's mean, in
# units of `width`. `AdvantageLoss` gives the advantage (reward less a baseline, here the mean) and
# the mass of the rows, one each.


# %%
class SoftFilterLoss(AdvantageLoss):
    """Weights rows by sigmoid((reward - mean) / width)."""

    def __init__(self, actor_network, *, width: float = 0.05, **options):
        super().__init__(actor_network, baseline="mean", **options)
        self.width = width

    def _weigh(self, tensordict, mask):
        advantage = self._advantage(tensordict, mask)
        weight = torch.sigmoid(advantage / self.width)
        if mask is not None:
            weight = weight * mask
        return Weighting(weight, self._mass(advantage, mask), {})


# %% [markdown]
# ## Against its closed form
#
# Without states, a policy over five items that minimises $-\sum_i w_i \log\pi(a_i)$ gives each item
# its share of the weight: $\pi(a) = \sum_{i: a_i = a} w_i / \sum_i w_i$. Training must find it.

# %%
generator = torch.Generator().manual_seed(0)
shown = torch.randint(5, (400,), generator=generator)
reward = shown / 5 + 0.2 * torch.randn(400, generator=generator)
rows = TensorDict(
    {"observation": torch.ones(400, 1), "action": shown, "next": {"reward": reward}}, [400]
)
weight = torch.sigmoid((reward - reward.mean()) / 0.05)
closed_form = torch.zeros(5).index_add(0, shown, weight) / weight.sum()

# %%
torch.manual_seed(0)
head = TensorDictModule(torch.nn.Linear(1, 5, bias=False), ["observation"], ["logits"])
policy = ProbabilisticActor(
    head, in_keys=["logits"], distribution_class=torch.distributions.Categorical
)
loss = SoftFilterLoss(policy)
optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
for _ in range(300):
    loss(rows)["loss_actor"].backward()
    optimizer.step()
    optimizer.zero_grad()
learned = policy.get_dist(rows[:1]).probs[0].detach()
print("closed form:", [round(p, 4) for p in closed_form.tolist()])
print("    learned:", [round(p, 4) for p in learned.tolist()])

# %%
torch.testing.assert_close(learned, closed_form, atol=1e-3, rtol=0)

# %% [markdown]
# What every objective must do, this one does, too: a masked row is not seen, whatever is in it.

# %%
mask = torch.rand(400, generator=generator) < 0.5
masked = rows.clone().set("shifted_valid", mask)
masked["next", "reward"][~mask] = 1e6
torch.testing.assert_close(
    loss(masked)["loss_actor"], SoftFilterLoss(policy)(rows[mask])["loss_actor"]
)

# %% [markdown]
# ## On a log, in TorchRL's Trainer
#
# The simulator's extreme log, 90% random rows; held-out users of its world judge by the latent
# reward of the item that a policy retrieves. `DRPOTrainer` takes any LossModule, and so does
# TorchRL's `Trainer` with a `BufferSource` of the log.

# %%
env = RecSimEnv("table", seed=0)
held_out = env.draw_states(1_000, seed=999)
interest = env.world.interest(held_out)


def train(make_loss, seed: int) -> tuple[list[tuple[int, float]], float]:
    """Held-out reward by step, and the log's own mean reward."""
    torch.manual_seed(seed)
    actor = make_gaussian_actor(state_dim=10, action_dim=128)
    written = env.simulate_log(3_000, "extreme", seed=seed, propensity=False)
    log = RecReplayBuffer.from_tensordict(
        written.select("observation", "action", "next"),
        generator=torch.Generator().manual_seed(seed),
    )

    def evaluate(step: int) -> dict[str, float]:
        found = evaluate_policy(actor, held_out, interest, env.items, delta=env.setting.delta)
        return {"reward": float(found["retrieved_reward"])}

    config = TrainerConfig(steps=STEPS, learning_rate=1e-3, evaluate_every=STEPS // 10)
    trainer = DRPOTrainer(make_loss(actor), log, config, evaluate=evaluate)
    trainer.train()
    return trainer.evaluations["reward"], log.quality.mean().item()


losses = {"BC": BehaviorCloningLoss, "soft filter": SoftFilterLoss, "DRPO": DRPOLoss}
runs = {name: [train(make, seed) for seed in SEEDS] for name, make in losses.items()}

# %%
COLOURS = {"soft filter": OWN[0]} | {name: method(name).colour for name in ("BC", "DRPO")}
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, found in runs.items():
    steps = [step for step, _ in found[0][0]]
    values = torch.tensor([[value for _, value in run] for run, _ in found])
    ax.plot(steps, values.mean(0), color=COLOURS[name], label=name)
    ax.fill_between(steps, values.amin(0), values.amax(0), color=COLOURS[name], alpha=0.2, lw=0)
logged = [mean for _, mean in runs["BC"]]
ax.axhline(sum(logged) / len(logged), color="black", lw=0.8, ls="--", label="the log's own mean")
ax.set(
    xlabel="optimiser steps",
    ylabel="reward of the retrieved item, 0 to 1",
    title=f"Held-out users; mean and range of {len(SEEDS)} seeds",
)
ax.legend(fontsize=8)
plt.show()

# %%
ends = {name: torch.tensor([run[-1][1] for run, _ in found]) for name, found in runs.items()}
for name, values in ends.items():
    print(f"{name:>12}: {values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")

# %%
assert (ends["soft filter"] > ends["BC"]).all()

# %% [markdown]
# The soft filter is far above BC, which imitates the random rows with the others, and on average a
# little below DRPO, which leaves most rows out altogether and adapts how many; their bands overlap.
# Ten lines are a fair baseline; what `DRPOLoss` adds is a filter that moves, and no work on the
# rows that it drops.
