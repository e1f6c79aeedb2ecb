"""The recommendation simulator as a TorchRL environment."""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs import EnvBase

from torchrl_drpo.envs.settings import RecSimSetting, Scenario, SessionSetting
from torchrl_drpo.envs.simulate import simulate_log
from torchrl_drpo.envs.world import RecSimWorld, advance


class RecSimEnv(EnvBase):
    r"""A recommender's simulator: an action is an embedding, the item nearest to it is shown.

    A user's state is :math:`s \sim N(0, I)`; the reward is the noisy, clipped latent reward of
    the item whose direction is nearest to the action. In the one-step form every step ends the
    episode (a contextual bandit; the next observation repeats the state). With ``session`` the
    state drifts and the user leaves after a while. A NaN action earns NaN. Source: arXiv
    2602.10430, appendix.

    Two seeds are kept apart. ``seed`` decides the world (items, interests, popularity): equal seeds
    are equal worlds, in every process. Users and noise come from a stream of the environment's own,
    which ``user_seed`` or :meth:`set_seed` starts. Without either it starts, when the first user is
    wanted, at a number drawn from torch's global generator, and from the process where that is a
    worker: copies of one environment in a ``SerialEnv`` or ``ParallelEnv`` serve different users of
    one world.

    Args:
        setting: ``"table"``, ``"collapse"``, or numbers of your own.
        session: drift and leaving; ``None`` for the one-step form.
        seed: of the world.
        user_seed: of the user stream until :meth:`set_seed`; ``None`` to have one drawn.
        batch_size: users served side by side.
        device: where everything is computed.

    Attributes:
        world: items, interests and rewards; ``env.world.interest(observation)``.

    Raises:
        ValueError: if the setting is unknown.

    Examples:
        >>> env = RecSimEnv("table", batch_size=[4], user_seed=0)
        >>> rollout = env.rollout(1)
        >>> rollout["next", "reward"].shape, bool(rollout["next", "terminated"].all())
        (torch.Size([4, 1, 1]), True)
        >>> log = env.simulate_log(100, "extreme", seed=1)
        >>> log["observation"].shape, log["action"].shape, log["next", "reward"].shape
        (torch.Size([100, 10]), torch.Size([100, 128]), torch.Size([100, 1]))
    """

    def __init__(
        self,
        setting: str | RecSimSetting = "table",
        *,
        session: SessionSetting | None = None,
        seed: int = 0,
        user_seed: int | None = None,
        batch_size: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device=device, batch_size=torch.Size(batch_size))
        self.setting = RecSimSetting.preset(setting) if isinstance(setting, str) else setting
        self.session = session
        self.world = RecSimWorld(self.setting, seed=seed, device=self.device)
        self._make_specs()
        self._set_seed(user_seed)

    @property
    def items(self) -> Tensor:
        """Item embeddings, shape ``[V, d]``, each of norm ``sqrt(d)``."""
        return self.world.items

    def simulate_log(
        self,
        n: int,
        scenario: str | Scenario = "extreme",
        *,
        seed: int | None = None,
        propensity: bool = True,
        propensity_draws: int = 128,
    ) -> TensorDict:
        """Writes a log of ``n`` rows by the logging mixture, in this environment's form.

        Args:
            n: rows, at least 1.
            scenario: ``"medium"``, ``"extreme"``, or shares of your own.
            seed: users and noise of this log alone; ``None`` goes on with the environment's stream.
            propensity: whether to compute the mixture's probability of each logged item; about
                a second per 3,000 rows on one core. The other entries do not depend on it.
            propensity_draws: accuracy of the expert's part; see
                :func:`~torchrl_drpo.envs.behavior.expert_probability`.

        Returns:
            Flat TED rows, batch ``[n]``; :func:`~torchrl_drpo.envs.simulate.simulate_log` lists
            the entries.

        Raises:
            ValueError: if the scenario is unknown or a count is below 1.
        """
        generator = self._stream if seed is None else self._new_generator(seed)
        return simulate_log(
            self.world,
            n,
            Scenario.preset(scenario) if isinstance(scenario, str) else scenario,
            generator=generator,
            session=self.session,
            propensity=propensity,
            propensity_draws=propensity_draws,
        )

    def draw_states(self, *shape: int, seed: int | None = None) -> Tensor:
        """Draws users to evaluate on: states ``[*shape, state_dim]``; ``seed`` as in a log."""
        generator = self._stream if seed is None else self._new_generator(seed)
        return self.world.draw_states(*shape, generator=generator)

    def to(self, device: torch.device | str) -> RecSimEnv:
        """Moves the environment; on another device the user stream restarts from its seed."""
        env = super().to(device)
        if self._generator is not None and self._generator.device != self.device:
            self._generator = None
        return env

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As any module's; nothing to do for an empty one.

        Such is what TorchRL's collectors save of an environment; a world is made of its seed.
        """
        if not state_dict:
            return None
        return super().load_state_dict(state_dict, *args, **options)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        state = self.world.draw_states(*self.batch_size, generator=self._stream)
        false = torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        out = {"observation": state, "done": false, "terminated": false.clone()}
        return TensorDict(out, batch_size=self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        state, action = tensordict["observation"], tensordict["action"]
        interest = self.world.interest(state)
        score, item = self.world.decoder.decode(action)
        latent = self.world.latent_reward(interest, item.squeeze(-1))
        # A NaN action has no nearest item; its reward says so, without asking the device.
        latent = latent.masked_fill(score.squeeze(-1).isnan(), torch.nan)
        reward = self.world.observed_reward(latent, self._stream)
        if self.session is None:
            left = torch.ones_like(reward, dtype=torch.bool)
            state = state.clone()
        else:
            state, left = advance(state, latent, self.session, self._stream)
        out = {
            "observation": state,
            "reward": reward.unsqueeze(-1),
            "done": left.unsqueeze(-1),
            "terminated": left.unsqueeze(-1).clone(),
        }
        return TensorDict(out, batch_size=self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._seed, self._generator = seed, None

    @property
    def _stream(self) -> torch.Generator:
        """Users and noise; made when the first is wanted, so that who gives seeds draws none."""
        if self._generator is None:
            if self._seed is None:
                self._seed = _drawn_seed()
            self._generator = self._new_generator(self._seed)
        return self._generator

    def _new_generator(self, seed: int) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(seed)

    def _make_specs(self) -> None:
        batch, device = self.batch_size, self.device
        state = Unbounded((*batch, self.setting.state_dim), device=device)
        self.observation_spec = Composite(observation=state, shape=batch, device=device)
        self.action_spec = Unbounded((*batch, self.setting.action_dim), device=device)
        self.reward_spec = Unbounded((*batch, 1), device=device)
        flag = Binary(1, shape=(*batch, 1), dtype=torch.bool, device=device)
        self.done_spec = Composite(done=flag, terminated=flag.clone(), shape=batch, device=device)


def _drawn_seed() -> int:
    """A seed from torch's global generator, another one in each worker process."""
    drawn = int(torch.randint(2**62, (), device="cpu"))
    if multiprocessing.parent_process() is None:
        return drawn
    # A forked worker has the parent's generator, as have its siblings; their names differ.
    return drawn ^ zlib.crc32(multiprocessing.current_process().name.encode())
