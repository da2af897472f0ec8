"""Searches (`hydra/sweeper=optuna`): sweeps whose values Optuna chooses from the results of earlier runs."""
