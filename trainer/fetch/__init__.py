"""Getting a base model from a hub, with the hub's own client."""
