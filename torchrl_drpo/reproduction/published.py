"""Numbers of arXiv 2602.10430 (v1), beside which the reproduction's are shown.

eCPM is five times the reward wherever both are published.
"""

from __future__ import annotations

#: Factor from a reward to the paper's eCPM.
ECPM = 5.0

#: Table 1, mean reward by scenario and method. APG is given as "about .01".
TABLE1: dict[str, dict[str, float]] = {
    "medium": {
        "APG": 0.01,
        "BC": 0.338,
        "CRR": 0.222,
        "BPPO": 0.341,
        "AWR": 0.333,
        "IQL": 0.337,
        "Adaptive BC": 0.367,
        "DRPO-Exp": 0.372,
        "DRPO": 0.374,
    },
    "extreme": {
        "APG": 0.01,
        "BC": 0.268,
        "CRR": 0.217,
        "BPPO": 0.124,
        "AWR": 0.254,
        "IQL": 0.289,
        "Adaptive BC": 0.297,
        "DRPO-Exp": 0.318,
        "DRPO": 0.308,
    },
}
#: Table 1: distance of APG's actions to the best item's, at least.
APG_DISTANCE = 3.8

#: Ablation, eCPM.
ABLATION: dict[str, float] = {
    "hard filter alone": 0.12,
    "soft base": 1.15,
    "soft base + fixed filter": 1.31,
    "soft base + adaptive filter": 1.42,
}

#: Offline-to-online, final eCPM.
ONLINE: dict[str, float] = {
    "AsymRE": 1.05,
    "AWR": 1.21,
    "IQL": 1.84,
    "DRPO-Exp": 1.93,
    "DRPO": 1.96,
}

#: eCPM by (policy noise, reward noise) and by the fixed fraction that is kept.
FIXED_RATIO: dict[tuple[float, float], dict[float, float]] = {
    (0.1, 0.0): {0.05: 1.69, 0.4: 1.69, 1.0: 1.35},
    (0.1, 0.5): {0.05: 1.29, 0.4: 1.29, 1.0: 1.20},
    (0.1, 1.0): {0.05: 1.06, 0.4: 1.06, 1.0: 1.13},
    (0.5, 0.0): {0.05: 1.63, 0.4: 1.63, 1.0: 1.59},
    (0.5, 0.5): {0.05: 1.13, 0.4: 1.13, 1.0: 1.04},
    (0.5, 1.0): {0.05: 0.87, 0.4: 0.87, 1.0: 0.93},
}

#: Phantom gradients: growth of the negatives' gradient while only positives are trained on, and
#: the ratio of repulsion to attraction in log sigma and in the mean.
PHANTOM = {"growth": 9.0, "ratio_sigma": 58.0, "ratio_mu": 2.0}
