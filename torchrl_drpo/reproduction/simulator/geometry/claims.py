"""What was claimed of the simulator's rewards, and what its worlds say."""

from __future__ import annotations

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.reproduction.simulator.geometry.world import SCENARIOS, SETTINGS
from torchrl_drpo.reproduction.target import Claim, Results, verdict


def claims(results: Results) -> list[Claim]:
    """Few good among many poor, and Zipf's law where it was seen."""

    def of(setting: str, scenario: str, name: str) -> float:
        return mean_interval(results[f"{setting}.{scenario}"]["result"]["numbers"][name]).mean

    worlds = [(s, m) for s in SETTINGS for m in SCENARIOS]
    few = [of(s, m, "skewness") > 0 and of(s, m, "good_rows") < 0.2 for s, m in worlds]
    zipf = [0.5 <= of(s, m, "reward_exponent") <= 2 for s, m in worlds]
    popular = [0.5 <= of(s, m, "popularity_exponent") <= 2 for s, m in worlds]
    where = "arXiv 2602.10430, section 2 and appendix"

    def each(name: str, form: str) -> str:
        return "; ".join(f"{s}, {m} {of(s, m, name):{form}}" for s, m in worlds)

    return [
        Claim(
            "Rewards are few good among many poor",
            where,
            verdict(few),
            f"rows above half of the best reward: {each('good_rows', '.1%')}; held below 20% with "
            "positive skewness",
        ),
        Claim(
            "Sorted rewards follow Zipf's law",
            where,
            verdict(zipf),
            f"rank exponents {each('reward_exponent', '.2f')}; held from 0.5 to 2. The reward is "
            "bounded by 1, so its top cannot be a power law",
        ),
        Claim(
            "Items of the popularity logger are Zipfian",
            where,
            verdict(popular),
            f"rank exponents {each('popularity_exponent', '.2f')}; held from 0.5 to 2",
        ),
    ]
