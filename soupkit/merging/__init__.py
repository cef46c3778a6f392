"""Many checkpoints become one: merge methods, the plan, and the engine that streams it."""
