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
# # Can I trust it? Off-policy evaluation on Open Bandit
#
# What would a policy earn? Its maker wants to know before it serves, from a log that another policy
# wrote. There are a dozen estimators for that, and each of them always prints a number. In Open
# Bandit two policies served the same shop in the same week, one at random and one by Thompson
# sampling (BTS). So here every estimate from the one's log can be held against the clicks that the
# other really had: which numbers are right, which are not, and what tells them apart.
#
# It needs no GPU and about a minute; `DRPO_TUTORIAL_QUICK=1` makes it a matter of seconds.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside an environment that has it
    subprocess.run([sys.executable, "-m", "pip", "install", "torchrl-drpo[cli]"], check=True)

# %%
import csv
import logging
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.distributions import Categorical
from torchrl.data.datasets import load_dataset

from torchrl_drpo import cli
from torchrl_drpo.evaluation.off_policy import (
    ESTIMATORS,
    InnerProductReward,
    LoggedRows,
    ips,
    logging_value,
    score_log,
    snips,
)
from torchrl_drpo.report.methods import SERIES

logging.getLogger("torchrl").setLevel(logging.WARNING)
torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"

scratch = tempfile.TemporaryDirectory()  # everything is written here, and goes with the notebook
published = Path(os.environ.get("OPEN_BANDIT", "open_bandit_dataset")).resolve()
os.chdir(scratch.name)

# %% [markdown]
# ## Two policies, one week
#
# The Open Bandit Dataset is published at research.zozo.com (26 million rows); its small form,
# 10,000 rows a log, lies in the folder `obd` of the repository st-tech/zr-obp on GitHub. Unpack
# either beside this notebook as `open_bandit_dataset`, or say in the variable OPEN_BANDIT where it
# lies. The committed notebook ran on the small form. Without it the notebook goes on with a made-up
# log of the same form: every step works, and its numbers say nothing about the real one.

# %%
CAMPAIGNS = {"all": 80, "men": 34, "women": 46}  # and how many items each has
LOGS = [(policy, campaign) for campaign in CAMPAIGNS for policy in ("random", "bts")]


def make_up(folder, policy, campaign, rows=10_000):
    """A log like Open Bandit's: a place, an item by a known policy, rarely a click."""
    draw = torch.Generator().manual_seed(0)
    quality = torch.rand(CAMPAIGNS[campaign], generator=draw)
    noise = torch.randn(3, len(quality), generator=draw)
    sharp = 0.0 if policy == "random" else {"all": 2.0, "men": 1.0, "women": 9.0}[campaign]
    table = torch.softmax(sharp * (quality + noise / 3), -1)
    draw.manual_seed(1 + LOGS.index((policy, campaign)))
    place = torch.randint(3, (rows,), generator=draw)
    item = torch.multinomial(table[place], 1, generator=draw)[:, 0]
    click = torch.rand(rows, generator=draw) < 0.001 + 0.01 * quality[item] ** 2
    folder.mkdir(parents=True)
    with open(folder / f"{campaign}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        names = ["timestamp", "item_id", "position", "click", "propensity_score"]
        writer.writerow(names + [f"user_feature_{number}" for number in range(4)])
        for row, (p, a, c) in enumerate(zip(place.tolist(), item.tolist(), click.int().tolist())):
            time = f"2019-11-{24 + 7 * row // rows} 00:{row % 3600 // 60:02}:{row % 60:02}+00:00"
            writer.writerow([time, a, p + 1, c, table[p, a].item(), row % 2, row % 3, row % 5, 0])


forms = ("random_men.parquet", "random/men/men.csv", "*/random/men/men.csv")
REAL = any(any(published.glob(form)) for form in forms)
LOG = published if REAL else Path("open_bandit_dataset")
if not REAL:
    for policy, campaign in LOGS:
        make_up(LOG / policy / campaign, policy, campaign)
print("Open Bandit" if REAL else "A made-up log: its numbers say nothing about the real one")
logs = {}
for policy, campaign in LOGS:
    which = {"campaign": campaign, "behavior_policy": policy}
    logs[policy, campaign] = load_dataset("rec:open-bandit", root=LOG, history=1, **which)[:]

# %% [markdown]
# A row is an item at one of three places of the page, whether it was clicked, and how likely the
# logging policy was to show it there. Clicks are rare, so even a policy's own log says only roughly
# what it earns:

# %%
own = {}
for (policy, campaign), log in logs.items():
    logged, click = log["propensity"].log(), log["next", "reward"]
    own[policy, campaign] = logging_value(LoggedRows(click, logged, logged))
    print(f"{campaign:>5}, {policy:>6}: {int(click.sum())} clicks, {own[policy, campaign]}")

# %% [markdown]
# ## From one log to the other policy
#
# An estimator weighs each logged row by how much likelier the policy in question is to show its
# item than the logging policy was. Both policies here know the place and not the user, so each is a
# table of three rows. BTS learned all week; what it did on average is how often it showed what.
#
# Doubly robust estimators also follow a model of the reward that has not seen the row. Ours is
# the click rate of an item in the other four fifths of the log, drawn towards the mean.

# %%
FOLDS = 5


def bts_table(log, items):
    count = torch.full((3, items), 0.5)
    count.index_put_((log["position"] - 1, log["action"]), torch.ones(len(log)), accumulate=True)
    return count / count.sum(-1, keepdim=True)


def click_rates(log, items, prior=200):
    """Clicks a show of each item, as if each had been shown so often before at the mean rate."""
    action, click = log["action"], log["next", "reward"][:, 0]
    clicks = torch.zeros(items).index_add(0, action, click)
    return (clicks + prior * click.mean()) / (torch.bincount(action, minlength=items) + prior)


def under(table, log):
    """The rows of a log under a policy that is a table of places and items."""
    items = table.shape[1]
    fold = torch.randperm(len(log), generator=torch.Generator().manual_seed(0)) % FOLDS
    rates = torch.stack([click_rates(log[fold != each], items) for each in range(FOLDS)], -1)
    # A row's state says which rates have not seen it: then the model is an inner product.
    model = InnerProductReward(lambda rows: torch.eye(FOLDS)[rows["fold"]], rates)

    def policy(rows):
        return Categorical(probs=table[rows["position"] - 1])

    return score_log(policy, log.copy().set("fold", fold), reward_model=model)


cases = {}
for campaign, items in CAMPAIGNS.items():
    bts, uniform = logs["bts", campaign], torch.full((3, items), 1 / items)
    cases[campaign, "bts"] = under(bts_table(bts, items), logs["random", campaign])
    cases[campaign, "random"] = under(uniform, bts)

# %% [markdown]
# An estimate is a number, an interval for it, and a verdict. All six ways; the band is what the
# policy had in its own log, with its interval:

# %%
NAMES = ("IPS", "clipped IPS", "SNIPS", "DM", "DR")
MARKS = {"usable": "o", "weak": "D", "meaningless": "x"}
found = {case: {name: ESTIMATORS[name](rows) for name in NAMES} for case, rows in cases.items()}
fig, axes = plt.subplots(2, 3, figsize=(11, 5.5), layout="constrained", sharex=True, sharey=True)
for ax, ((campaign, policy), estimates) in zip(axes.T.flat, found.items()):
    truth = own[policy, campaign]
    ax.axvspan(1_000 * truth.low, 1_000 * truth.high, color="black", alpha=0.1, lw=0)
    ax.axvline(1_000 * truth.value, color="black", lw=0.8)
    for place, each in enumerate(estimates.values()):
        ax.plot([1_000 * each.low, 1_000 * each.high], [place] * 2, color=SERIES[place])
        ax.plot(1_000 * each.value, place, MARKS[each.verdict], color=SERIES[place], ms=8)
    worth = estimates["IPS"].diagnostics.effective_rows
    way = "BTS from the random log" if policy == "bts" else "random from the BTS log"
    ax.set(title=f"{campaign}: {way}\n(worth {worth:,.0f} rows)")
for ax in axes[1]:
    ax.set(xlim=(-5, 25), ylim=(4.5, -0.5), xlabel="clicks per thousand rows")
axes[0, 0].set(yticks=range(len(NAMES)), yticklabels=NAMES)
for verdict, mark in MARKS.items():
    axes[0, 2].plot([], [], mark, color="gray", label=verdict)
axes[0, 2].legend(fontsize=8)
plt.show()


# %%
def distance(each, truth):
    """In joint standard errors: the policy's own clicks are few, too."""
    return abs(each.value - truth.value) / math.hypot(each.standard_error, truth.standard_error)


print("farthest from the policy's own clicks, in joint standard errors:")
for name in ("IPS", "clipped IPS", "SNIPS", "DR"):
    far = max(distance(found[case][name], own[case[::-1]]) for case in found)
    assert not REAL or far < 2
    print(f"{name:>12}: {far:.2f}")

# %% [markdown]
# Every estimate is within two standard errors of what the other policy really had, which is as much
# as so few clicks can tell; clipped IPS, which is low by design, is the farthest. So all is well?
# The verdicts say no: of BTS from the random log none is meaningless, of random from the BTS log
# most are. The women's items are the worst case.
#
# ## What an estimate rests on
#
# BTS had all but stopped to show some of the women's items. Rows in which it did show them stand
# for thousands in which it did not:

# %%
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for (campaign, policy), rows in cases.items():
    share = rows.log_ratio.exp().sort(descending=True).values.cumsum(0)
    line = {"all": ":", "men": "--", "women": "-"}[campaign]
    colour, label = SERIES[policy == "random"], f"{policy}, {campaign}"
    ax.plot(range(1, len(rows) + 1), share / share[-1], line, color=colour, label=label)
ax.set(xscale="log", xlabel="heaviest rows", ylabel="their share of all weight", ylim=(0, 1))
ax.legend(fontsize=8, title="policy in question")
plt.show()

# %%
print(f"random, from the BTS log of women's items; it really had {own['random', 'women']}")
for name, estimate in found["women", "random"].items():
    print(f"{name:>12}: {estimate}")
    print(f"{'':>14}{'; '.join(why for _, why in estimate.diagnostics.reasons())}")

# %% [markdown]
# The estimators contradict each other, and some of them look fine. None is worth anything: had
# chance drawn the few heaviest rows otherwise, each would be another number. Nobody who sees the
# number alone can know that; the weights can, and the verdict is made of them and of how many
# clicks such weights can have seen. Its limits are in `THRESHOLDS`.
#
# The direct method (DM) has no weights, so nothing speaks against it but that nothing can. It has
# no interval, and its verdict is never better than weak. Why that is so, the next policy shows.
#
# ## A policy that is too good
#
# Take the first half of the random log, and always show what was clicked most there, at each place.
# It is a deterministic policy, as most that serve are. What would it earn in the second half?

# %%
first, second = logs["random", "all"].split(5_000)[:2]
rates = [click_rates(first[first["position"] == place], 80, prior=10) for place in (1, 2, 3)]
rates = torch.stack(rates)
scored = under(torch.nn.functional.one_hot(rates.argmax(-1), 80).float(), second)
claimed, earned = rates.amax(-1)[second["position"] - 1].mean(), second["next", "reward"].mean()
print(f"the log earned {earned:.4f} a row, the model claims {claimed:.4f}")
for each in (ips(scored), snips(scored)):
    why = "; ".join(why for _, why in each.diagnostics.reasons())
    print(f"{each.name}: {each.value:.4f} ({each.verdict}: {why})")

# %% [markdown]
# The model claims many times what anything ever earned in this shop, because the policy went
# looking for the model's largest errors. The weights say how little is known: some dozens of rows
# agree with the policy, too few for a click. A 0 from IPS is no evidence, and neither is its
# interval; the verdict says so. The remedy is a policy that keeps some probability everywhere, or a
# larger log of a random one.
#
# ## From the command line
#
# `drpo train` puts the value of each policy that it trains, and the verdict on it, into its table
# where the log has propensities. `drpo evaluate --ope` says all that there is to say of one policy:
# every estimator, its difference to what the log earned (paired by row, p values corrected for
# their number), and the reasons; its exit code is 1 where nothing means anything.


# %%
def drpo(*arguments):
    """The command line, from Python."""
    assert cli.main(list(map(str, arguments))) == 0


dataset = ("--dataset", "open-bandit", "--root", LOG)  # all items, by the random policy
options = ("--test-share", 0.5, "--objectives", "bc", "drpo", "--steps", 20 if QUICK else 100)
drpo("train", *dataset, *options, "--output", "run")

# %%
options = ("--reward-model", "none") if QUICK else ()
drpo("evaluate", "--checkpoint", "run/bc", *dataset, "--ope", *options)

# %% [markdown]
# ## How often the intervals hold
#
# One log can agree by luck. In a made-up world the truth is known, and a log can be drawn again and
# again: 80 items, clicks as rare as here, a logger that prefers some items. The policy in question
# is the logger with noise on its logits: in each world more, so that an estimate is worth less.

# %%
WORLDS, DRAWN, ROWS = (4, 20, 5_000) if QUICK else (60, 50, 10_000)
draw = torch.Generator().manual_seed(0)
holds = {verdict: [] for verdict in MARKS}
for world in range(WORLDS):
    logits, other = torch.randn(2, 80, generator=draw).double()
    noise = 2.5 * (world + 1) / WORLDS
    logger, target = torch.softmax(logits, -1), torch.softmax(logits + noise * other, -1)
    rate = 0.01 * torch.rand(80, generator=draw).double()
    truth = (target @ rate).item()
    shown = torch.multinomial(logger.expand(DRAWN, -1), ROWS, replacement=True, generator=draw)
    click = (torch.rand(shown.shape, generator=draw) < rate[shown]).double()
    for each in map(snips, map(LoggedRows, click, target.log()[shown], logger.log()[shown])):
        normal = abs(each.value - truth) <= 1.96 * each.standard_error
        holds[each.verdict].append((each.low <= truth <= each.high, normal))
shares = {}
for verdict, found_here in holds.items():
    shares[verdict] = torch.tensor(found_here).double().reshape(-1, 2).mean(0).tolist()
    ours, normal = shares[verdict]
    print(f"{verdict:>12}: {len(found_here):5,} logs, {ours:.1%} hold; normal ones {normal:.1%}")

# %% [markdown]
# The verdict knows before anybody knows the truth: intervals that are called usable or weak hold
# about as often as they promise, 95%; those called meaningless do not. Normal ones, mean ± 1.96
# standard errors, give way first: sums of few weighted clicks are skewed.
#
# ## What to take along
#
# * **Log propensities, and keep some randomness.** The random log judges BTS; the log of a policy
#   that has made up its mind judges little but itself.
# * **Read the verdict, then the interval, then the number.** Every estimator prints one.
# * **A reward model is no judge** of a policy that was chosen by it.
# * Without logged propensities `drpo evaluate --ope` fits them and says so; slates and sequences
#   have estimators of their own: see the guide's page on evaluation.

# %%
judged = {name: each.verdict for name, each in found["women", "random"].items()}
assert {verdict for name, verdict in judged.items() if name != "DM"} == {"meaningless"}
assert ips(scored).verdict == snips(scored).verdict == "meaningless"
assert claimed > 2 * earned
if REAL:
    easy = [found[campaign, "bts"].values() for campaign in CAMPAIGNS]
    assert not any(each.verdict == "meaningless" for estimates in easy for each in estimates)
assert QUICK or min(shares["usable"][0], shares["weak"][0]) > 0.93 > 0.85 > shares["meaningless"][0]
