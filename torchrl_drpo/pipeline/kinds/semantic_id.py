"""``drpo train --policy semantic-id``: generative policies, which write an item code by code."""

from __future__ import annotations

from typing import Any

from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions.code_trie import CodeTrie
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.kinds.catalogue import CatalogueTraining
from torchrl_drpo.pipeline.kinds.training import Progress
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor, semantic_id_policy
from torchrl_drpo.policies.semantic_id.tilted import make_tilted_semantic_id_actor
from torchrl_drpo.references import allowing
from torchrl_drpo.rewards import CatalogueReward


class SemanticIDTraining(CatalogueTraining):
    """Trains policies over the semantic IDs of a log's item table; see :class:`PolicyTraining`.

    Rows, objectives and reward models are those of policies over item numbers, since an action is
    an item here, too.

    Raises:
        ValueError: for a log whose schema names no codes, or whose items have none.
    """

    def __init__(self, data: SplitLog, config: TrainConfig, progress: Progress) -> None:
        codes = data.log.item_codes
        if codes is None:
            raise ValueError(
                "a policy over semantic IDs needs the items' codes: name the item table and its "
                "code columns in the schema (items=ItemTable(path=..., id=..., codes=(...))); "
                "drpo tokenize makes them of item vectors"
            )
        uncoded = int((codes < 0).all(1).sum())
        if uncoded == len(codes):
            raise ValueError(
                f"none of the {len(codes)} items has a code; does the item table's id column hold "
                "the ids of the log?"
            )
        trie = CodeTrie(codes)
        *choices, alike = trie.widths
        if max(choices) == 1 and (alike == 1 or not config.kind_options.item_bias):
            raise ValueError(
                f"the {len(codes)} items of the log leave a policy over their codes nothing to "
                "choose: there is one item, or all share one code and --no-item-bias tells none "
                "apart; log more items, or give them codes (drpo tokenize)"
            )
        super().__init__(data, config, progress)
        self._codes = codes
        self.facts |= {
            "code_sizes": list(trie.sizes),
            "items_that_share_a_code": trie.collisions,
            "items_without_codes": uncoded,
        }
        levels = " x ".join(str(size) for size in trie.sizes)
        self.notes.append(
            f"Policies over semantic IDs of {levels} codes; {trie.collisions:,} of {len(codes):,} "
            f"items share theirs with another, {uncoded:,} have none and share an empty one. "
            "Ranks are those of what a search finds; what it does not find counts as last."
        )

    def _read_items(self) -> None:
        """Item vectors are the policy's own, of its codes."""

    def make_actor(self, model: dict[str, Any]) -> tuple[ProbabilisticActor, dict[str, Any]]:
        """As for policies over item numbers; the codes themselves lie among the weights."""
        arguments = {name: value for name, value in model.items() if name != "num_items"}
        with allowing(self._config.model.encoder):  # which the settings name
            actor = make_semantic_id_actor(self._codes, **arguments, device=self._config.device)
        policy = semantic_id_policy(actor)
        self._fit_scalers(policy.encoder)
        return actor, model | {"code_sizes": policy.trie.sizes}

    def tilted(
        self, actor: ProbabilisticActor, critic: CatalogueReward, tau: float
    ) -> ProbabilisticActor:
        """Policy times critic, code by code."""
        return make_tilted_semantic_id_actor(actor, critic, tau)
