"""A search (`hydra/sweeper=optuna`): a sweep whose values Optuna chooses, by what the earlier runs achieved."""
