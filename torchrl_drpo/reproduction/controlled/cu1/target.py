"""``drpo reproduce cu1``: signed equilibria in a continuous bandit, against their closed forms."""

from __future__ import annotations

from torchrl_drpo.envs.cu1 import mass_ratio
from torchrl_drpo.reproduction.controlled.arms import Arm
from torchrl_drpo.reproduction.controlled.cu1.section import section
from torchrl_drpo.reproduction.controlled.cu1.training import FAR, NEAR, run_arms, run_sign_rule
from torchrl_drpo.reproduction.target import Cell, Options, Target

RHOS = (0.0, 0.2, 0.4, 7 / 12, 0.7, 0.8, 0.9, 1.1)
#: Every taper keeps half of a negative at D = 2, as the global scale does; the cut-off keeps more.
SHAPES = {
    "reciprocal, linear": {
        "kind": "reciprocal",
        "order": "linear",
        "strength": 1.0,
        "scale": 2.0,
    },
    "reciprocal, quadratic": {
        "kind": "reciprocal",
        "order": "quadratic",
        "strength": 1.0,
        "scale": 2.0,
    },
    "exponential": {"kind": "exponential", "strength": 0.6931471805599453, "scale": 2.0},
    "hard cut-off": {"kind": "cutoff", "threshold": 3.0},
}
EVERY = tuple(range(8))


def response_arms() -> list[Arm]:
    """Negative 0 alone, from positive-only to past rho = 1."""
    return [Arm(f"rho {rho:.2f}", rho / mass_ratio(1.0)) for rho in RHOS]


def source_arms() -> list[Arm]:
    """Each negative alone, and groups of them, at one strength."""
    groups = {"near": NEAR, "far": FAR, "near and far": NEAR + FAR, "all": EVERY}
    single = [Arm(f"negative {k}", 0.5, (k,)) for k in EVERY]
    return single + [Arm(name, 0.5, members) for name, members in groups.items()]


def shape_arms() -> list[Arm]:
    """All negatives under every control, at a moderate and at a ruinous strength."""
    arms = [Arm("signed, alpha 1", 1.0, EVERY)]
    for alpha in (1.0, 4.0):
        arms.append(Arm(f"global scale, alpha {alpha:g}", 0.5 * alpha, EVERY))
        arms += [Arm(f"{name}, alpha {alpha:g}", alpha, EVERY, SHAPES[name]) for name in SHAPES]
    return arms


def sigma_arms() -> list[Arm]:
    """The same questions where log sigma is learned."""
    tapered = ("reciprocal, quadratic", "exponential", "hard cut-off")
    return [
        Arm("positive-only", 0.0),
        *(Arm(f"negative 0, alpha {alpha:g}", alpha) for alpha in (0.25, 0.5, 1.0)),
        Arm("far, alpha 0.25", 0.25, FAR),
        Arm("all signed, alpha 2.5", 2.5, EVERY),
        Arm("all, global scale, alpha 2.5", 1.25, EVERY),
        *(Arm(f"all, {name}, alpha 2.5", 2.5, EVERY, SHAPES[name]) for name in tapered),
    ]


def cells(options: Options) -> list[Cell]:
    """Four groups of arms and the sign rule; half of ``options.seeds`` seeds, at least two.

    The closed forms are exact for every seed, so fewer are needed than where methods compete.
    """
    seeds = list(range(2 if options.quick else max(2, options.seeds // 2)))
    warmup, steps, evaluations = (20, 20, 5) if options.quick else (2_000, 4_000, 25)
    long = 20 if options.quick else 3_500
    fixed = {"steps": steps, "rates": [1e-3, 1e-4], "learn_sigma": False}
    learned = {"steps": long, "rates": [4e-3, 4e-3], "learn_sigma": True}
    shared = {"seeds": seeds, "warmup": warmup, "evaluations": evaluations}

    def cell(name: str, arms: list[Arm], **schedule: object) -> Cell:
        settings = {"arms": [arm.settings() for arm in arms], **shared, **schedule}
        return Cell("cu1", name, run_arms, settings)

    single = [Arm("positive-only", 0.0), *(Arm(f"negative {k}", 1.0, (k,)) for k in EVERY)]
    sign = {"arms": [arm.settings() for arm in single], "seeds": seeds, "warmup": warmup}
    return [
        cell("response", response_arms(), **fixed),
        cell("sources", source_arms(), **fixed),
        cell("shapes", shape_arms(), **fixed),
        cell("sigma", sigma_arms(), **learned),
        Cell("cu1", "sign-rule", run_sign_rule, sign),
    ]


TARGET = Target(
    "cu1", "C-U1: continuous actions, equilibria against their closed forms", cells, section
)
