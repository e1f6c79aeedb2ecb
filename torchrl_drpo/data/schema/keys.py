"""Keys of a sample that mean something: no label may take one, or it would be read as that."""

from __future__ import annotations

#: What a converted log's rows hold.
ROW_KEYS = frozenset(
    {
        "action", "log_propensity", "next", "observation", "policy", "position", "propensity",
        "slate", "step", "time", "trajectory_id", "user",
    }
)  # fmt: skip
#: What buffers, samplers and windows add.
SAMPLE_KEYS = frozenset(
    {"_weight", "collector", "importance_weight", "index", "priority", "td_error"}
)
#: What losses, trainers and reward models read where a batch has it.
LOSS_KEYS = frozenset(
    {
        "advantage", "behavior_log_prob", "fold", "is_init", "mask", "predicted_reward",
        "priority_weight", "quality", "shifted_valid", "state_action_value", "state_value",
        "value_target",
    }
)  # fmt: skip
RESERVED = ROW_KEYS | SAMPLE_KEYS | LOSS_KEYS
