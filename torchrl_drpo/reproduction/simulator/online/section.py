"""What target ``online`` shows, from the cells' numbers alone."""

from __future__ import annotations

from torchrl_drpo.evaluation.statistics import corrected_p_values, mean_interval, paired_interval
from torchrl_drpo.report.formats import signed, spread
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.published import ECPM, ONLINE
from torchrl_drpo.reproduction.simulator.online.claims import claims
from torchrl_drpo.reproduction.simulator.online.figures import draw
from torchrl_drpo.reproduction.simulator.online.results import COMPARED, gain, offline, seen
from torchrl_drpo.reproduction.simulator.results import late, mean
from torchrl_drpo.reproduction.target import Figure, Options, Results, Section


def section(options: Options, results: Results) -> Section:
    """Rewards before and after, and what became of the served rows."""
    settings = results["DRPO"]["settings"]
    _, passed = seen(results, "DRPO", "passed")
    start, last = mean_interval(passed[0]).mean, mean(results, "DRPO", "passed")
    text = (
        f"{settings['offline_steps']:,} steps on the extreme mixture's log, then "
        f"{settings['online_steps']:,} in which the policy serves {settings['served']} new users "
        f"every {settings['serve_every']} steps (a sampled action, the nearest item, its noisy "
        "reward) and half of every batch is drawn from what was served, through TorchRL's "
        f"`OfflineToOnlineReplayBuffer`. Table setting, {len(settings['seeds'])} seeds. Going "
        f"online is worth {signed(gain(results, 'DRPO'))} of reward to DRPO and "
        f"{signed(gain(results, 'IQL'))} to IQL. Of the served rows in a batch, {start:.0%} pass "
        f"DRPO's filter at the start and {last:.0%} at the end."
    )
    return Section(
        "Offline to online",
        text,
        tables=[_table(results)],
        figures=[
            Figure(
                "online",
                "Left: reward on held-out users; serving begins at step 0. Middle: latent reward "
                "of what was served, with the policy's own exploration. Right: share of the served "
                "rows with positive weight (DRPO, solid), and their share of all attraction "
                "(dashed).",
                lambda canvas: draw(canvas, results),
                size=(11.0, 3.4),
            )
        ],
        claims=claims(results),
    )


def _table(results: Results) -> Table:
    base = late(results, "DRPO")
    values = {name: late(results, name) for name in COMPARED if name != "DRPO"}
    p, rows = corrected_p_values(values, base), []
    for name in COMPARED:
        other = name != "DRPO"
        rows.append(
            [
                name,
                spread(offline(results, name)),
                spread(late(results, name)),
                f"{ECPM * mean(results, name):.2f}",
                f"{ONLINE[name]:.2f}",
                spread(late(results, name, "served_reward")),
                signed(paired_interval(values[name], base)) if other else "",
                f"{p[name]:.3f}" if other else "",
                f"{mean(results, name, 'attraction'):.0%}",
            ]
        )
    header = ["method", "offline", "online", "eCPM", "paper", "served", "vs DRPO", "p (Holm)"]
    return Table(
        "Before and after going online",
        [*header, "attraction by served rows"],
        rows,
        emphasis=[0],
        note="offline: the last evaluation before serving; online: mean of the last fifth.",
    )
