"""Read-only analyses of models: FLOPs, statistics, differences, views for networkx."""
