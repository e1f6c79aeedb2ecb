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
# # A real public log, to a policy that serves
#
# MovieLens' small log (100,000 ratings, 671 people) from its file to lists of titles: what is in
# it, what to learn from, which policy is better and how sure that is, and how it is served. Nothing
# here but the schema is about films: put your own file in its place.
#
# It needs no GPU and about three minutes; `DRPO_TUTORIAL_QUICK=1` makes it a matter of seconds.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("torchrl_drpo") is None:  # outside an environment that has it
    subprocess.run([sys.executable, "-m", "pip", "install", "torchrl-drpo[cli]"], check=True)

# %%
import csv
import json
import logging
import os
import random
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from torchrl_drpo import cli
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request
from torchrl_drpo.report.methods import method

logging.getLogger("torchrl").setLevel(logging.WARNING)
torch.set_num_threads(1)
QUICK = os.environ.get("DRPO_TUTORIAL_QUICK") == "1"
STEPS = 40 if QUICK else 300

scratch = tempfile.TemporaryDirectory()  # everything is written here, and goes with the notebook
published = Path(os.environ.get("MOVIELENS", "ml-latest-small")).resolve()
os.chdir(scratch.name)


def drpo(arguments):
    """The command line, from Python."""
    assert cli.main(arguments.split()) == 0


# %% [markdown]
# ## The log
#
# Unpack `ml-latest-small.zip` (grouplens.org, datasets, MovieLens) beside this notebook, or say in
# the variable MOVIELENS where it lies. Without it the notebook goes on with a made-up log of the
# same form: every command works, and the numbers mean nothing.


# %%
def make_up(folder, users=150, movies=300):
    """Files like MovieLens' own: some films are better, and people like one kind in three."""
    draw = random.Random(0)
    worth = [draw.gauss(2.5, 1.0) for _ in range(movies)]
    folder.mkdir()
    with open(folder / "movies.csv", "w", newline="") as file:
        rows = ([movie, f"Film {movie} of kind {movie % 3}", ""] for movie in range(movies))
        csv.writer(file).writerows([["movieId", "title", "genres"], *rows])
    with open(folder / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["userId", "movieId", "rating", "timestamp"])
        for user in range(users):
            start = 1_000_000_000 + 86_400 * user
            seen = {int(movies * draw.random() ** 2) for _ in range(30)}
            for place, movie in enumerate(sorted(seen, key=lambda _: draw.random())):
                opinion = worth[movie] + (movie % 3 == user % 3) + draw.gauss(0, 0.5)
                rating = min(5.0, max(0.5, round(2 * opinion) / 2))
                writer.writerow([user, movie, rating, start + 3_600 * place])


LOG = Path("ml-latest-small")
REAL = (published / "ratings.csv").exists()
if REAL:
    shutil.copytree(published, LOG)
else:
    make_up(LOG)
print("MovieLens" if REAL else "A made-up log: its numbers mean nothing")
with open(LOG / "movies.csv", encoding="utf-8") as file:
    titles = {int(row["movieId"]): row["title"] for row in csv.DictReader(file)}
with open(LOG / "ratings.csv") as file:
    print("".join(file.readlines()[:4]))

# %% [markdown]
# `drpo schema` looks at a file and writes a draft of what its columns mean, with its reasons. A
# rating is worth its rank among the user's own ratings, so that a generous user's 4 and a strict
# one's 3 can mean the same.

# %%
drpo(f"schema {LOG}/ratings.csv --output schema.json")
print(Path("schema.json").read_text())

# %% [markdown]
# `drpo validate` finds every fault before anything is trained: missing ids, implausible times,
# features that know the future. This log has none, but one peculiarity: many ratings of one user
# have the same time. They were typed in together, and none of them may stand in another's history.

# %%
drpo(f"validate --logs {LOG}/ratings.csv --schema schema.json")

# %% [markdown]
# ## Training, and the table
#
# The latest fifth of the rows is held out; what a row's quality is was fitted on the others alone.
# Three policies over item numbers:
#
# * `bc` imitates the log, the poor ratings included.
# * `drpo` keeps the best fraction of each batch and imitates that.
# * `conditioned-tilt` clones every row with its quality as an input, is asked for the best, and is
#   weighted by a reward model when it serves. It is the recommended one for item numbers.

# %%
drpo(
    f"train --logs {LOG}/ratings.csv --schema schema.json --test-share 0.2 --output run"
    f" --objectives bc drpo conditioned-tilt --steps {STEPS}"
)

# %% [markdown]
# Every held-out rating is ranked in the whole catalogue. "Best" and "worst" rows are the quarters
# by quality: a good recommender has the best rows in its list and the worst ones not, and *lift* is
# the ratio of the two. Five simple methods stand beside: a policy that is not better than these in
# anything is not worth serving. All numbers lie in `run/results.json`:

# %%
summary = json.loads(Path("run/results.json").read_text())["summary"]
fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
markers = iter("xP*sD")  # of what learns nothing
for name, metrics in summary.items():
    hits, lift = metrics["hr@50_best"], metrics["lift@50"]
    if name == "random" or lift["mean"] == "inf":  # no hit on any of the worst rows
        continue
    shown, learned = method(name), name in ("bc", "drpo", "conditioned-tilt")
    ax.errorbar(
        hits["mean"],
        lift["mean"],
        xerr=hits["half_width"],
        yerr=lift["half_width"],
        fmt="o" if learned else next(markers),
        color=shown.colour,
        alpha=1 if learned else 0.5,
        label=shown.name,
    )
ax.axhline(1, color="gray", ls=":", label="good and poor alike")
ax.set(
    xlabel="hit rate of the best rows in lists of 50",
    ylabel="lift (ratio to that of the worst rows)",
    title="Held-out ratings; 95% intervals over users",
)
fig.legend(loc="outside right center", fontsize=9)
plt.show()

# %% [markdown]
# * **The poor rows are what the objectives differ in.** BC hits them as popularity does. DRPO hits
#   more of the best and fewer of the worst, and `conditioned-tilt` leaves out most of the worst.
# * **Counting hits more.** What goes together (co-occurrence, item-kNN) is much of what a rating
#   log is about, and 300 steps of a policy that averages a history do not find all of it. It hits
#   the worst rows more often, too.
# * **Intervals are wide.** 147 people are held out; over them the lifts of DRPO and of recent
#   popularity cannot be told apart, those of `conditioned-tilt` and BC can. `drpo train --seeds 3`
#   adds what another seed would change.
# * **A fifth of the held-out rows are of items that training never showed.** A policy over item
#   numbers misses them all; the columns of warm rows leave them out. Item features, vectors or
#   semantic IDs (tutorials 02 and 05) are the remedy.
#
# ## Lists
#
# A checkpoint is a folder: weights, ids, the schema, each user's history. It needs no log to
# recommend. What a user has rated already is left out.

# %%
user = 42
drpo(f"recommend --checkpoint run/conditioned-tilt --user {user} --k 5")

# %% [markdown]
# The same in Python, for all three, with titles:

# %%
policies = {
    name: Recommender(PolicyCheckpoint.load(f"run/{name}"))
    for name in ("bc", "drpo", "conditioned-tilt")
}
for name, recommender in policies.items():
    found = recommender.recommend(Request(user=user, k=5))
    print(f"{method(name).name:>16}: " + " | ".join(titles[place.item] for place in found))

# %% [markdown]
# Somebody new who has just liked one film has a list, too: a history can be given by hand.

# %%
liked = max(titles, key=lambda item: "Matrix, The" in titles[item])
found = policies["conditioned-tilt"].recommend(Request(history=[liked], k=5))
print(f"{titles[liked]}: " + " | ".join(titles[place.item] for place in found))

# %% [markdown]
# ## Serving
#
# For many users there is a file in and a file out; for a running system a line of JSON in and one
# out (`--serve`), or `drpo export`: one graph from a history to items and log-probabilities, which
# runs without this package. `--tau` moves a tilted policy between its clone (large) and its reward
# model (small) without training anything, and `--sample` draws lists and says how likely each item
# was: log that, and the next policy can be judged before it is served (tutorial 06).

# %%
Path("users.txt").write_text("".join(f"{user}\n" for user in range(1, 101)))
recommend = "recommend --checkpoint run/conditioned-tilt --users users.txt --k 5"
for name, options in {"as_saved": "", "nearer_the_model": "--tau 0.03"}.items():
    drpo(f"{recommend} --output {name}.csv {options}")
lists = {}
for name in ("as_saved", "nearer_the_model"):
    with open(f"{name}.csv") as file:
        lists[name] = {(row["user"], row["item"]) for row in csv.DictReader(file)}
same = len(lists["as_saved"] & lists["nearer_the_model"]) / len(lists["as_saved"])
print(f"{same:.0%} of what is recommended to 100 users stays at another tau")

# %%
drpo(f"{recommend} --output drawn.csv --sample --seed 0")
print("".join(Path("drawn.csv").read_text().splitlines(keepends=True)[:4]))

# %% [markdown]
# ## Later
#
# When new rows have come in, `drpo evaluate` says what a policy of last week is worth on them, and
# what it ranks high where; here on the held-out fifth once more.

# %%
drpo(f"evaluate --checkpoint run/conditioned-tilt --logs {LOG}/ratings.csv")

# %% [markdown]
# ## Your own log
#
# `drpo schema yours.parquet`, then the same commands. What a row is worth decides everything; the
# guide's page on logs has clicks, dwell times, funnels and purchases. Train `--seeds 3` before you
# believe a difference, and read which objective to take when on the page of that name.

# %%
assert same < 1
assert summary["conditioned-tilt"]["hr@50_best"]["mean"] > summary["random"]["hr@50_best"]["mean"]
