"""The decision process of an agent: episodes, observations, action spaces and rewards."""
