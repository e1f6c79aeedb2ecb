"""A trained catalogue policy on disk: weights, item ids, the users' latest histories, and facts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.artifacts.folder import Artifact, ArtifactError, save_artifact
from torchrl_drpo.pipeline.artifacts.index import ItemIndex
from torchrl_drpo.pipeline.artifacts.users import UserHistories, raw_ids
from torchrl_drpo.pipeline.config.kinds import KINDS
from torchrl_drpo.policies.catalogue import CataloguePolicy
from torchrl_drpo.policies.retrieval import RetrievalPolicy
from torchrl_drpo.policies.semantic_id import SemanticIDPolicy
from torchrl_drpo.policies.served import ServedPolicy
from torchrl_drpo.references import allowing, source_digest

KIND = "torchrl-drpo catalogue policy"
VERSION = 1

#: From states ``[*B, D]``, a length k and item numbers to leave out (``[E]``, ``[*B, E]``, or
#: ``None``) to scores and item numbers ``[*B, k]``, best first; -1 where the catalogue ran out.
Ranking = Callable[[Tensor, int, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PolicyCheckpoint:
    """Everything that evaluating a policy and recommending with it need.

    Attributes:
        actor: the policy, in evaluation mode, on the CPU.
        model: the arguments that made it, of the function that its kind names.
        items: the items, in the order of the policy's table.
        users: the users' histories.
        contexts: raw values of each context column, in the order of their numbers.
        facts: how it came about: objective, seed, steps, data configuration, schema, metrics.
        policy: its kind, a key of :data:`~torchrl_drpo.pipeline.config.kinds.KINDS`.
    """

    actor: ProbabilisticActor
    model: dict[str, Any]
    items: Catalogue
    users: UserHistories
    contexts: list[Catalogue] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    policy: str = "catalogue"

    @property
    def window(self) -> int:
        """Longest history that the policy reads."""
        return int(self.model["history"])

    @property
    def has_index(self) -> bool:
        """Whether its lists are those of an inner product with item vectors."""
        return not isinstance(policy_of(self.actor), SemanticIDPolicy)

    @property
    def history_columns(self) -> tuple[str, ...]:
        """What the policy reads of a history's rows beside their items, of a log's columns."""
        encoder = self.model.get("encoder", {})
        read = {"time": encoder.get("times"), "feedback": encoder.get("feedback")}
        return tuple(name for name, wanted in read.items() if wanted)

    def index(self) -> ItemIndex:
        """The policy's item index.

        Raises:
            ValueError: for a policy over semantic IDs, which has none.
        """
        policy = policy_of(self.actor)
        if isinstance(policy, SemanticIDPolicy):
            raise ValueError(
                "a policy over semantic IDs has no item index: it finds items code by code; ask "
                "it for lists (drpo recommend)"
            )
        return ItemIndex.from_policy(policy, raw_ids(self.items))

    def ranking(self) -> Ranking:
        """What gives lists at states: the index's search, or that over semantic IDs."""
        policy = policy_of(self.actor)
        if not isinstance(policy, SemanticIDPolicy):
            return self.index().top_k

        def searched(hidden: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
            found = policy.distribution(hidden).topk(k, exclude=exclude)
            return found.values, found.indices

        return searched

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Vectors of all items, as far as the policy has any, ``[V, D]``."""
        policy = policy_of(self.actor)
        if isinstance(policy, SemanticIDPolicy):
            return policy.embed(torch.arange(len(self.items)))
        index = self.index()
        return index.vectors[:, : index.dim]

    @torch.no_grad()
    def state(
        self,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """The policy's state ``[D]`` for one user.

        Args:
            history: item numbers, oldest first, int64 ``[n]``.
            context: numbers of the context columns' values, ``[C]``; all unknown by default.
            features: raw numbers, ``[F]``; the training rows' mean by default.
            times: when the items were logged, int64 ``[n]``, where the policy reads it.
            feedback: what they were worth, ``[n]``, likewise; the training rows' mean by default.

        Raises:
            ValueError: for items without the times that the policy reads.
        """
        one = (None if each is None else each.view(1, -1) for each in (context, features))
        return self.states(
            self._windowed(history, -1),
            *one,
            times=None if times is None else self._windowed(times, 0),
            feedback=None if feedback is None else self._windowed(feedback, 0),
        )[0]

    @torch.no_grad()
    def states(
        self,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """The policy's states ``[B, D]`` for many users.

        Args:
            history: item numbers, oldest first, int64 ``[B, L]`` with L the :attr:`window`; -1
                pads.
            context: ``[B, C]``; all unknown by default.
            features: ``[B, F]``; the training rows' mean by default.
            times: when the items were logged, int64 ``[B, L]``, where the policy reads it.
            feedback: what they were worth, ``[B, L]``, likewise; the training rows' mean by
                default.

        Raises:
            ValueError: for items without the times that the policy reads.
        """
        rows, observation = len(history), {"history": history}
        if "time" in self.history_columns:
            if times is None and bool((history >= 0).any()):
                raise ValueError(
                    "the policy reads how much time lies between the items of a history, and for "
                    "these items there are no times; name a user of the log"
                )
            observation["history_time"] = torch.zeros_like(history) if times is None else times
        if "feedback" in self.history_columns:
            if feedback is None:
                feedback = policy_of(self.actor).usual_feedback().expand(history.shape)
            observation["history_feedback"] = feedback
        if columns := len(self.model["context_sizes"]):
            unknown = history.new_full((rows, columns), -1)
            observation["context"] = unknown if context is None else context
        if self.model.get("num_features", 0):
            if features is None:
                features = self.usual_features().expand(rows, -1)
            observation["features"] = features
        td = TensorDict({"observation": observation}, [rows])
        return self.actor.get_dist(td).hidden

    def usual_features(self) -> Tensor:
        """What stands for features that are not known, ``[F]``."""
        usual = policy_of(self.actor).usual_features()
        assert usual is not None  # the policy reads features
        return usual

    def _windowed(self, values: Tensor, padding: int) -> Tensor:
        """The latest of a history's numbers, ``[1, L]``."""
        window = values.new_full((1, self.window), padding)
        recent = values[max(0, len(values) - self.window) :]
        if recent.numel():
            window[0, -recent.numel() :] = recent
        return window

    def save(self, directory: str | os.PathLike[str], *, index: bool = True) -> Path:
        """Writes the checkpoint and, under ``index/``, its item index; replaces an older one.

        A policy over semantic IDs has no index, nor is one written with ``index=False``.

        The index is for services that retrieve with another program: item vectors and raw ids,
        ready for inner products. It holds the item table a second time; nothing here reads it, and
        it may be moved elsewhere or deleted.
        """
        directory = Path(directory)
        save_artifact(
            directory,
            kind=KIND,
            version=VERSION,
            facts={"policy": self.policy, "model": self.model, "facts": self.facts},
            tensors={
                "policy": policy_of(self.actor).state_dict(),
                "users": {
                    "items": self.users.items,
                    "offsets": self.users.offsets,
                    "context": self.users.context,
                    "features": self.users.features,
                    **({} if self.users.times is None else {"times": self.users.times}),
                    **({} if self.users.feedback is None else {"feedback": self.users.feedback}),
                },
            },
            lists={
                "item_ids": raw_ids(self.items),
                "user_ids": raw_ids(self.users.ids),
                "contexts": [raw_ids(values) for values in self.contexts],
            },
        )
        # Last: after a kill in between, the manifest says that the older policy is gone, and
        # neither run counts as finished.
        if index and self.has_index:
            self.index().save(directory / "index")
        return directory

    @classmethod
    def load(
        cls, directory: str | os.PathLike[str], *, allow_code: Sequence[str] = ()
    ) -> PolicyCheckpoint:
        """Reads a checkpoint; nothing of it is executed.

        Args:
            directory: where it lies.
            allow_code: encoders of a user's own that it may name (``mymodule:make_encoder``), whose
                modules are then imported; see :mod:`torchrl_drpo.references`. One whose file has
                changed since the policy was trained is warned of.

        Raises:
            ValueError: if it names code that is not allowed, or not to be had.
            ArtifactError: if it is absent, damaged, foreign, of another version, or its weights
                do not fit the model that it describes.
        """
        artifact = Artifact(directory, kind=KIND, version=VERSION)
        try:
            with allowing(*allow_code):
                found = cls._from_artifact(artifact)
            trained_with = found.facts.get("code", {})
            for reference in allow_code:
                code = trained_with.get(reference)
                if code is not None and code != source_digest(reference, "encoder"):
                    warnings.warn(
                        f"the code of {reference} has changed since {directory} was trained: what "
                        "it serves may be another policy; take the module as it was, or train anew",
                        stacklevel=2,
                    )
            return found
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ArtifactError(
                f"{directory}: its parts do not fit each other: {error}; copy it again, or train "
                "the policy again"
            ) from None

    @classmethod
    def _from_artifact(cls, artifact: Artifact) -> PolicyCheckpoint:
        model = dict(artifact.facts["model"])
        kind = artifact.facts.get("policy", "catalogue")
        if kind not in KINDS:
            raise ArtifactError(
                f"{artifact.directory} holds a policy of unknown kind {kind!r}; this release knows "
                f"{', '.join(KINDS)}"
            )
        actor = KINDS[kind].load_actor()(**model)
        policy_of(actor).load_state_dict(artifact.tensors("policy"))
        users = Catalogue(artifact.values("user_ids"))
        known = artifact.tensors("users")
        known.setdefault("features", torch.zeros(len(users), 0))  # written before there were any
        return cls(
            actor=actor.eval(),
            model=model,
            items=Catalogue(artifact.values("item_ids")),
            users=UserHistories(users, **known),
            contexts=[Catalogue(values) for values in artifact.values("contexts")],
            facts=artifact.facts["facts"],
            policy=kind,
        )


def saved_fingerprint(directory: str | os.PathLike[str]) -> str | None:
    """Fingerprint of the run whose policy lies there; ``None`` where none does, or a nameless one.

    Of the manifest alone: weights are neither read nor checked.
    """
    try:
        facts = Artifact(directory, kind=KIND, version=VERSION).facts.get("facts", {})
    except ArtifactError:
        return None
    return facts.get("fingerprint")


def policy_of(
    actor: nn.Module,
) -> CataloguePolicy | ServedPolicy | RetrievalPolicy | SemanticIDPolicy:
    """The module that owns the weights of an actor of any kind: the outermost one."""
    for module in actor.modules():
        if isinstance(module, CataloguePolicy | ServedPolicy | RetrievalPolicy | SemanticIDPolicy):
            return module
    raise TypeError(f"expected an actor of a kind of policy, got {type(actor).__name__}")
