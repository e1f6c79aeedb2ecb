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
# # Semantic IDs: a policy that writes an item
#
# A policy can write an item's semantic ID, a short code a level, instead of choosing among all
# items: a row costs a few small softmaxes, and what is learned of a first code is shared by all
# items behind it, the new ones included. Here codes are made of item vectors and judged, and the
# policy over them is held against what it must be: a distribution over items, whose propensities
# are exact and whose search says what it may have missed. Then two objectives are trained on it.
#
# It needs no data, no GPU and under three minutes; `DRPO_TUTORIAL_QUICK=1` makes it a matter of
# seconds.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside an environment that has it
    subprocess.run([sys.executable, "-m", "pip", "install", "torchrl-drpo[cli]"], check=True)

# %%
import contextlib
import io
import json
import logging
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from torchrl_drpo import DRPOLoss, LogSchema, RecReplayBuffer, cli, make_semantic_id_actor
from torchrl_drpo.distributions import CodeTrie
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.report.methods import SERIES, method
from torchrl_drpo.tokenization import code_quality, residual_kmeans

logging.getLogger("torchrl").setLevel(logging.WARNING)
torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
USERS, ITEMS, STEPS = (300, 300, 30) if QUICK else (2_000, 1_000, 400)
scratch = tempfile.TemporaryDirectory()  # everything is written here, and goes with the notebook
os.chdir(scratch.name)


def drpo(arguments):
    """The command line, from Python."""
    assert cli.main(arguments.split()) == 0


# %% [markdown]
# ## A log, and item vectors
#
# Items are of eight kinds with six styles each, and their vectors (say, of their texts) say which.
# Users like two kinds. The logger shows what is popular, three times in ten what fits, too; a row
# is worth more where the item fits. One item in ten comes out when the last fifth of the time
# begins: most of these are in no training row.

# %%
draw = torch.Generator().manual_seed(0)
kinds = torch.randn(8, 16, generator=draw)
styles = 0.6 * torch.randn(8, 6, 16, generator=draw)
kind, style = (torch.randint(n, (ITEMS,), generator=draw) for n in (8, 6))
vectors = kinds[kind] + styles[kind, style] + 0.5 * torch.randn(ITEMS, 16, generator=draw)
released = torch.where(torch.rand(ITEMS, generator=draw) < 0.1, 0.8, 0.0)
popular = torch.exp(-3 * torch.rand(ITEMS, generator=draw))

time = 0.8 * torch.rand(USERS, 1, generator=draw)
time = (time + 0.2 * torch.rand(USERS, 20, generator=draw)).sort(-1).values
likes = kinds[torch.randint(8, (USERS, 2), generator=draw)].sum(1)
fit = (likes + 0.5 * torch.randn(USERS, 16, generator=draw)) @ vectors.T / 16
fits = torch.rand(USERS, 20, 1, generator=draw) < 0.3
shown = popular * (released <= time[..., None]) * torch.where(fits, (1.5 * fit).exp()[:, None], 1)
item = torch.multinomial(shown.flatten(0, 1), 1, generator=draw).view(USERS, 20)
noise = torch.randn(2, USERS, 20, generator=draw)
worth = torch.sigmoid(
    fit.gather(1, item) + 0.5 * torch.randn(ITEMS, generator=draw)[item] + noise[0] / 2
)

order = time.flatten().argsort()
user = torch.arange(USERS).repeat_interleave(20)
seconds = (1_700_000_000 + 30 * 86_400 * time.flatten()).long()
log = {"user": user, "item": item.flatten(), "time": seconds, "worth": worth.flatten()}
log = {name: column[order].numpy() for name, column in log.items()}
pq.write_table(pa.table(log), "log.parquet")
pq.write_table(pa.table({"item": range(ITEMS), "vector": vectors.tolist()}), "vectors.parquet")
schema = {
    "version": 1, "user": "user", "item": "item", "time": "time", "duplicates": "keep",
    "quality": {"kind": "formula", "formula": "worth"},
    "items": {"path": "vectors.parquet", "id": "item", "embedding": "vector"},
}  # fmt: skip
with open("schema.json", "w") as file:
    json.dump(schema, file)

# %% [markdown]
# ## Codes, and what the report says of them
#
# `drpo tokenize` quantises the vectors by residual k-means: each level names a centroid of what the
# levels before it have left. Then it says how good the codes are, and what to add to the schema.

# %%
CODES = 16 if QUICK else 32
drpo(
    f"tokenize --logs log.parquet --schema schema.json --test-share 0.2 --levels 3 --codes {CODES}"
    " --output items.parquet"
)

# %% [markdown]
# * **Perplexity** near the number of codes: they are used evenly, none is wasted.
# * **Within** falls from level to level: what the codes so far leave open of the vectors.
# * **Neighbours** share first codes far more often than chance would have it: that is the meaning
#   that a policy can use.
# * **Collisions** are items with all codes alike, and *hits lost* is what that would cost a policy
#   that cannot tell them apart. Ours can: they have biases of their own.
#
# How many codes a level? Few make like items alike, many tell them apart:

# %%
SIZES = (4, 8, 16, 32, 64)
made = [residual_kmeans(vectors, levels=3, codes=size, seed=0).codes for size in SIZES]
judged = [code_quality(codes, vectors=vectors) for codes in made]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
axes[0].plot(SIZES, [q.collisions.unique_share for q in judged], "o-", color=SERIES[0])
axes[0].set(ylabel="share of items alone on their codes", ylim=(0, 1))
for level in range(3):
    shares = [q.levels[level].neighbours for q in judged]
    label = f"all of the first {level + 1}" if level else "the first"
    axes[1].plot(SIZES, [s.share for s in shares], "o-", color=SERIES[level], label=label)
    axes[1].plot(SIZES, [s.chance for s in shares], ":", color=SERIES[level])
axes[1].set(ylabel="nearest items that share codes", ylim=(0, 1))
axes[1].legend(fontsize=8, title="dotted: by chance")
for ax in axes:
    ax.set(xscale="log", xticks=SIZES, xticklabels=SIZES, xlabel="codes of each of three levels")
    ax.minorticks_off()
plt.show()

# %% [markdown]
# ## The trie, and a distribution over items
#
# The catalogue's codes form a trie, and a code is normalised over those that may follow. So an
# item's log-probability is a sum over levels, with a last term for items that share all codes (a
# softmax of their biases). The event is the item: no loss or log can tell it from another policy's.

# %%
schema["items"] |= {"path": "items.parquet", "codes": ["code_0", "code_1", "code_2"]}
Path("coded.json").write_text(json.dumps(schema))
log = RecReplayBuffer.from_parquet(
    "log.parquet", LogSchema.from_json(json.dumps(schema)), test_share=0.2
)
trie = CodeTrie(log.item_codes)
print("prefixes by level:", [trie.num_nodes(level) for level in range(3)], "items:", ITEMS)
print("most that may follow one:", trie.widths)

# %%
torch.manual_seed(0)
actor = make_semantic_id_actor(log.item_codes)
test = log.split("test")[:]
dist = actor.get_dist(test[:4].select(*actor.in_keys))
everything = torch.arange(ITEMS).unsqueeze(-1).expand(-1, 4)
log_probs = dist.log_prob(everything)  # [items, states]
print("sums over the catalogue:", log_probs.double().exp().sum(0).tolist())
print("DRPO's loss on 256 rows:", DRPOLoss(actor)(test[:256])["loss_actor"].item())
torch.testing.assert_close(log_probs.exp().sum(0), torch.ones(4))
torch.testing.assert_close(log_probs, dist.logits.T)  # the same by way of all prefixes at once
torch.testing.assert_close(log_probs, dist.code_log_prob(everything).sum(-1))

# %% [markdown]
# ## BC and DRPO, over codes and over item numbers
#
# `drpo train --policy semantic-id` needs the codes in the schema and nothing else; objectives and
# table are the same. Beside it the same two as a softmax over item numbers.

# %%
train = "train --logs log.parquet --schema coded.json --test-share 0.2 --objectives bc drpo --json"
METRICS = {
    "hr@50_best": "HR@50, best",
    "hr@50_worst": "HR@50, worst",
    "lift@50": "lift",
    "gauc_quality": "GAUC quality",
}
print(f"{'':>18}" + "".join(f"{name:>17}" for name in METRICS.values()))
lift = {}
for policy in ("semantic-id", "catalogue"):
    with contextlib.redirect_stdout(io.StringIO()):  # one table instead of two
        drpo(f"{train} --policy {policy} --steps {STEPS} --output {policy}")
    summary = json.loads(Path(f"{policy}/results.json").read_text())["summary"]
    for name in ("bc", "drpo") if policy == "semantic-id" else ("bc", "drpo", "popularity"):
        cells = [summary[name][metric] for metric in METRICS]
        row = "".join(f"{cell['mean']:9.3f} ± {cell['half_width']:.3f}" for cell in cells)
        where = "" if name == "popularity" else policy
        print(f"{method(name).name:>10} {where:>11}{row}")
        lift[policy, name] = cells[2]["mean"]

# %% [markdown]
# Best and worst rows are the quarters of the held-out ones by worth; intervals are over users. What
# matters most is the objective: over codes and over item numbers DRPO hits more of the best rows
# than BC and about half as many of the worst. Codes cost DRPO nothing here.
#
# ## Propensities are exact
#
# A served list must be logged with the probability of each item, or no later policy can be judged
# by it (tutorial 06). Draws walk down the trie; how often an item comes must be what it says:

# %%
policy = PolicyCheckpoint.load("semantic-id/drpo").actor
picked = test[torch.linspace(0, len(test) - 1, 500).long()]
states = picked.select(*policy.in_keys)
DRAWS = 20_000 if QUICK else 200_000
torch.manual_seed(0)
with torch.no_grad():
    one = policy.get_dist(states[:1])
    propensity = one.log_prob(torch.arange(ITEMS).unsqueeze(-1)).exp()[:, 0].double()
    drawn = torch.cat([one.sample((10_000,)) for _ in range(DRAWS // 10_000)])
count = torch.bincount(drawn.flatten(), minlength=ITEMS)
often = propensity * DRAWS >= 5  # where a count is nearly normal
z = (count - DRAWS * propensity)[often] / (DRAWS * propensity * (1 - propensity))[often].sqrt()
print(f"{DRAWS:,} draws; of {len(z)} items {(z.abs() < 1.96).double().mean():.1%} lie within 95%")

# %%
grid = torch.logspace(propensity[often].log10().min(), propensity.log10().max(), 50).double()
half = 1.96 * (grid * (1 - grid) / DRAWS).sqrt()
fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
ax.scatter(propensity[often], count[often] / DRAWS, s=8, color=method("drpo").colour)
ax.fill_between(grid, grid - half, grid + half, color="black", alpha=0.2, lw=0, label="95%")
ax.plot(grid, grid, color="black", lw=0.8)
ax.set(xscale="log", yscale="log", xlabel="propensity of an item", ylabel="share of the draws")
ax.legend()
plt.show()

# %% [markdown]
# `sample_lists` draws lists without repeats, with the probability of each item behind those before
# it. A further draw walks down what these have left of the trie: what the first item frees goes to
# those nearest to it, and an item behind another first code keeps its propensity.

# %%
dist = policy.get_dist(states)
lists = dist.sample_lists(2)
log_prob = dist.log_prob(lists.indices.T).T.detach().double()
torch.testing.assert_close(lists.log_probs[:, 0], log_prob[:, 0], atol=1e-4, rtol=0)
first_code = log.item_codes[:, 0][lists.indices]
apart = first_code[:, 0] != first_code[:, 1]
gain = (lists.log_probs - log_prob)[:, 1]
print(f"{int(apart.sum())} pairs apart: changed by {gain[apart].abs().max():.0e} at most")
print(
    f"{int((~apart).sum())} pairs behind one first code: by {gain[~apart].max():.2f} nats at most"
)
assert gain[apart].abs().max() < 1e-4
assert (gain > -1e-4).all()

# %% [markdown]
# ## The search, and what it may have missed
#
# A list for serving is a beam search: the best prefixes of a level go on to the next. In this small
# trie all prefixes can be asked, so the search can be held against the truth; in one of a million
# items nobody can. Therefore a search also returns `pruned`, the probability of the likeliest
# prefix that it let go: no item behind it is likelier. Where that lies below the last of the list,
# the list is proved to be the exact one.

# %%
K, BEAMS = 10, (10, 12, 16, 24, 32, 64)
exact = dist.topk(K, beam=0)
everything = dist.logits.detach().topk(K)
torch.testing.assert_close(exact.values, everything.values)
recall, proved, missed = [], [], []
for beam in BEAMS:
    found = dist.topk(K, beam=beam)
    same = (found.indices.unsqueeze(-1) == exact.indices.unsqueeze(-2)).any(-1)
    sure = found.pruned <= found.values[:, -1]
    torch.testing.assert_close(found.values[sure], exact.values[sure])  # what is proved is so
    recall.append(same.double().mean().item())
    proved.append(sure.double().mean().item())
    missed.append(found.pruned.exp().quantile(torch.tensor([0.1, 0.5, 0.9])))
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
axes[0].plot(BEAMS, recall, "o-", color=SERIES[0], label="of the exact ten that were found")
axes[0].plot(BEAMS, proved, "s--", color=SERIES[1], label="of the lists proved to be exact")
axes[0].set(ylabel="share", ylim=(0, 1.05))
low, middle, high = torch.stack(missed).T
axes[1].plot(BEAMS, middle, "o-", color=SERIES[2], label="bound on what was missed")
axes[1].fill_between(BEAMS, low, high, color=SERIES[2], alpha=0.2, lw=0, label="80% of the states")
last = exact.values[:, -1].exp().median()
axes[1].axhline(last, color="black", ls=":", label="tenth of the exact list, median")
axes[1].set(ylabel="probability", ylim=(0, None))
for ax in axes:
    ax.set(xscale="log", xticks=BEAMS, xticklabels=BEAMS, xlabel="prefixes that the beam keeps")
    ax.minorticks_off()
    ax.legend(fontsize=8)
plt.show()
print("  beam:" + "".join(f"{beam:7}" for beam in BEAMS))
print("recall:" + "".join(f"{share:7.1%}" for share in recall))
print("proved:" + "".join(f"{share:7.1%}" for share in proved))

# %% [markdown]
# ## Items that nobody has seen
#
# A softmax over item numbers knows nothing of an item without a training row: its vector is as it
# was drawn, and every step pushes it down. Over codes it shares its first codes, and what was
# learned of these, with items that were seen.


# %%
def correlation(a, b):
    """Of the columns of each row, mean over the rows."""
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    return torch.cosine_similarity(a, b, dim=-1).mean().item()


cold = torch.bincount(log.split("train").column("action"), minlength=ITEMS) == 0
cold_items = torch.tensor(log.items.decode(cold.nonzero()[:, 0].tolist()))
liked = fit[torch.tensor(log.users.decode(picked["user"].tolist()))][:, cold_items]
print(f"{int(cold.sum())} of {ITEMS} items are in no training row")
mass, agrees = {}, {}
for codes_or_numbers in ("semantic-id", "catalogue"):
    for name in ("bc", "drpo"):
        checkpoint = PolicyCheckpoint.load(f"{codes_or_numbers}/{name}")
        assert checkpoint.items == log.items  # the same numbers
        of_cold = checkpoint.actor.get_dist(states).logits.detach()[:, cold]
        each = of_cold.exp().sum(-1).mean().item(), correlation(of_cold, liked)
        mass[codes_or_numbers, name], agrees[codes_or_numbers, name] = each
        who = f"{method(name).name:>5}, {codes_or_numbers:>11}"
        print(
            f"{who}: {each[0]:6.2%} of the probability; correlation with the taste {each[1]:+.2f}"
        )

# %% [markdown]
# Through their codes new items have many times the probability that item numbers leave them, and
# DRPO's leans to what the user likes, weakly, though no row has told of it; BC has imitated what
# was popular. They are still far below their share of the catalogue, as no training row ended with
# their last codes. Fewer codes a level share more, and tell less apart; vectors as actions
# (tutorial 02) go the whole way.

# %%
assert (z.abs() < 1.96).double().mean() > 0.9
assert recall[-1] > 0.99
if not QUICK:
    assert min(lift[way, "drpo"] / lift[way, "bc"] for way in ("semantic-id", "catalogue")) > 1.5
    assert mass["semantic-id", "drpo"] > 5 * mass["catalogue", "drpo"]
    assert agrees["semantic-id", "drpo"] > 0.1 > abs(agrees["catalogue", "drpo"])
