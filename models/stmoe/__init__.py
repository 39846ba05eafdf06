"""STMoE: a mixture of motion experts, its training, and the physics it is shown."""
